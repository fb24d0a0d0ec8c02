# The step that runs the file backend on Windows' interface, under Wine. What Wine cannot tell: how NTFS lays out a file, and
# whether a file takes its whole length there. It maps files to those of the host, which have holes.

check_windows() (
    local target=x86_64-pc-windows-gnu manifest=tests/windows/Cargo.toml folder test
    have x86_64-w64-mingw32-gcc || install_packages gcc-mingw-w64-x86-64
    if ! have wine64 && ! [[ -x /usr/lib/wine/wine64 ]] && ! install_packages wine64; then
        echo "skipped: Debian's wine64 cannot be installed here"
        return
    fi
    wine=$(command -v wine64 || echo /usr/lib/wine/wine64)
    export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
    build_std=std,panic_unwind,test
    cargo_for "$target" test --locked --no-run --manifest-path "$manifest"
    folder=$CARGO_TARGET_DIR/$target/debug/deps
    # The newest, where there are several.
    test=$(ls -t "$folder"/files-*.exe | head -n 1)
    x86_64-w64-mingw32-gcc -shared -o "$folder/bcryptprimitives.dll" tests/windows/bcryptprimitives.c -ladvapi32
    scratch=$(mktemp -d)
    # Its server goes by itself some seconds after the last program, and would make its folder again.
    server=$(command -v wineserver || echo /usr/lib/wine/wineserver64)
    trap 'WINEPREFIX=$scratch/wine "$server" -k || true; rm -rf "$scratch"' EXIT
    # Wine's own version of that library, where there is one, does not count. No display is needed.
    WINEPREFIX=$scratch/wine WINEDEBUG=-all WINEDLLOVERRIDES="bcryptprimitives=n;mscoree,mshtml=" DISPLAY= \
        timeout 600 "$wine" "$test"
)
