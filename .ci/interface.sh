# The steps that look at what others build on: items, compilers, versions of dependencies, licences.

# No item of the published 0.0.1 is missing or has changed.
check_api() {
    local manifest=tests/api/Cargo.toml target=$CARGO_TARGET_DIR/api scratch which
    local -A package=(
        [published]=registry+https://github.com/rust-lang/crates.io-index#gibblox-cache@0.0.1
        [this]=path+file://$PWD#gibblox-cache@0.0.1
    )
    # That the comparison sees each kind of break.
    cargo test --locked --manifest-path "$manifest"
    scratch=$(mktemp -d)
    for which in published this; do
        RUSTC_BOOTSTRAP=1 RUSTDOCFLAGS="-Zunstable-options --output-format json" \
            CARGO_TARGET_DIR=$target cargo doc --locked --no-deps --manifest-path "$manifest" --package "${package[$which]}"
        # Both go by the same name.
        mv "$target/doc/gibblox_cache.json" "$scratch/$which.json"
    done
    cargo metadata --locked --format-version 1 --manifest-path "$manifest" >"$scratch/metadata.json"
    cargo run --locked --quiet --manifest-path "$manifest" -- "$scratch"/{published,this,metadata}.json
    rm -r "$scratch"
}
