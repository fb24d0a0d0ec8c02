# The step that runs the cache in a browser.

# A linker for wasm32: the toolchain's own, or Debian's.
wasm_linker() {
    local own
    own=$(compgen -G "$(rustc --print sysroot)/lib/rustlib/*/bin/rust-lld" || true)
    if [[ -n $own ]]; then
        head -n 1 <<<"$own"
        return
    fi
    have wasm-ld || install_packages lld >&2
    command -v wasm-ld
}

check_browser() {
    local manifest=tests/browser/Cargo.toml linker
    have chromium && have chromedriver || install_packages chromium chromium-driver
    linker=$(wasm_linker)
    echo "the program for the browser"
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$linker build_std=std,panic_abort \
        cargo_for wasm32-unknown-unknown build --locked --release --lib --manifest-path "$manifest"
    echo "in the browser: $(chromium --version)"
    cargo test --locked --no-run --manifest-path "$manifest"
    # A browser that hangs fails after a minute; this is for what nobody thought of. Everything is on loopback.
    NO_PROXY=127.0.0.1 no_proxy=127.0.0.1 timeout 600 cargo test --locked --manifest-path "$manifest"
}
