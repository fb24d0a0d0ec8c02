# The steps that leave the host: programs without std, and a microcontroller.

bare_targets=(thumbv7em-none-eabihf riscv32imac-unknown-none-elf wasm32-unknown-unknown)

# Runs cargo for a target without an operating system. Where the toolchain in use brings the target, that is all;
# otherwise Debian's compiler builds `core` and `alloc`, or what `build_std` names, from their sources, which Debian has
# as well.
cargo_for() {
    local target=$1 command=$2
    shift 2
    if [[ -d $(rustc --print sysroot)/lib/rustlib/$target/lib ]]; then
        cargo "$command" --target "$target" "$@"
        return
    fi
    if ! [[ -x /usr/bin/cargo && -x /usr/bin/rustc && -d $(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library ]]; then
        install_packages rustc-web cargo-web rust-web-src
    fi
    RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
        /usr/bin/cargo "$command" -Zbuild-std="${build_std:-core,alloc}" --target "$target" "$@"
}

# A linker for bare-metal targets: the toolchain's own, or Debian's.
bare_linker() {
    local own
    own=$(compgen -G "$(rustc --print sysroot)/lib/rustlib/*/bin/rust-lld" || true)
    if [[ -n $own ]]; then
        head -n 1 <<<"$own"
        return
    fi
    have ld.lld || install_packages lld >&2
    command -v ld.lld
}

check_nostd() {
    local manifest=tests/nostd/Cargo.toml target log
    echo "on the host, built and run"
    cargo build --locked --release --manifest-path "$manifest"
    "$CARGO_TARGET_DIR/release/gibblox-cache-nostd"

    echo "the control: with std the same program must not build"
    log=$(mktemp)
    if cargo build --locked --release --manifest-path "$manifest" --features std 2>"$log"; then
        echo "it was built beside std, so this check can see nothing"
        return 1
    fi
    grep -m 1 'duplicate lang item `panic_impl`' "$log" || { cat "$log"; return 1; }
    rm "$log"

    for target in "${bare_targets[@]}"; do
        echo "for $target"
        cargo_for "$target" build --locked --lib --manifest-path "$manifest"
    done
}

check_firmware() {
    have qemu-system-arm || install_packages qemu-system-arm
    have size || install_packages binutils
    local image=$CARGO_TARGET_DIR/thumbv7em-none-eabihf/release/gibblox-cache-firmware linker
    linker=$(bare_linker)
    CARGO_TARGET_THUMBV7EM_NONE_EABIHF_LINKER=$linker \
        cargo_for thumbv7em-none-eabihf build --locked --release --manifest-path tests/firmware/Cargo.toml
    echo "size in bytes; bss holds the heap"
    size "$image"
    timeout 120 qemu-system-arm -machine mps2-an386 -nographic -monitor none -serial none \
        -semihosting-config enable=on,target=native -kernel "$image"
}
