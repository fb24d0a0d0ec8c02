# The tests where bytes and pointers are different: a big-endian machine, and one of 32 bits, as an emulator plays them.

# Target and the emulator's, the compiler's and Debian's names of it.
foreign_targets=("s390x-unknown-linux-gnu s390x s390x-linux-gnu s390x" "i686-unknown-linux-gnu i386 i686-linux-gnu i386")

# What depends on the order of bytes or on the size of a pointer: what is written, and what is read back.
foreign_modules=(file::format:: file::exchange:: file::open:: file::hostile::)

# Each command takes a few minutes at most where the machine is free, and a test that hangs is a failure too.
foreign_seconds=${FOREIGN_SECONDS:-900}

# What only benches, examples and tests elsewhere want, and what takes most of the time to build.
foreign_unused='gibblox-http|http-body-util|hyper|hyper-util|indicatif|serde_json|url'

# With Debian's compiler, which has the sources of `std`; the toolchain in use may have neither. Dependencies are a little
# optimized, since an emulator runs them, and so are the unit tests, of which some are exhaustive; the others are not, since
# that would take longer than they do. In a folder of its own, so that builds by the toolchain in use need not wait for it.
foreign_cargo() {
    RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_PROFILE_DEV_DEBUG=false CARGO_TARGET_DIR=$CARGO_TARGET_DIR/foreign \
        timeout "$foreign_seconds" /usr/bin/cargo --config 'profile.dev.package."*".opt-level=1' "$@"
}

# A copy of what is here, without those dependencies.
foreign_tree() {
    local tree=$CARGO_TARGET_DIR/foreign/tree
    rm -rf "$tree"
    mkdir -p "$tree"
    tar c --exclude=target --exclude=./.git . | tar x -C "$tree"
    sed -i -E "/^($foreign_unused) = /d" "$tree/Cargo.toml"
    echo "$tree"
}

check_foreign() {
    if ! [[ -x /usr/bin/cargo && -x /usr/bin/rustc && -d $(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library ]]; then
        install_packages rustc-web cargo-web rust-web-src
    fi
    local line target emulator prefix library upper found tree module
    tree=$(foreign_tree)
    for line in "${foreign_targets[@]}"; do
        read -r target emulator prefix library <<<"$line"
        have "qemu-$emulator-static" || install_packages qemu-user-static
        have "$prefix-gcc" && [[ -e /usr/$prefix/lib/libc.so.6 ]] \
            || install_packages "gcc-$prefix" "libc6-dev-$library-cross"
        upper=${target^^}
        upper=${upper//-/_}
        export "CARGO_TARGET_${upper}_LINKER=$prefix-gcc"
        export "CARGO_TARGET_${upper}_RUNNER=qemu-$emulator-static -L /usr/$prefix"
        local build=(-Zbuild-std --target "$target" --manifest-path "$tree/Cargo.toml")
        echo "for $target"
        foreign_cargo --config profile.dev.opt-level=1 test "${build[@]}" --lib --no-run
        foreign_cargo --config profile.dev.opt-level=1 test "${build[@]}" --lib
        foreign_cargo test "${build[@]}" --test it --no-run
        for module in "${foreign_modules[@]}"; do
            # A filter that matches nothing passes.
            found=$(foreign_cargo test "${build[@]}" --test it -- --list "$module" 2>/dev/null | grep -c ': test$')
            echo "tests in $module: $found"
        done
        foreign_cargo test "${build[@]}" --test it -- "${foreign_modules[@]}"
    done
}
