# The step that runs the example as a person would.

# Runs the example with arguments that cannot work: it must exit with the code given first, say nothing on stdout,
# and say why in one line on stderr.
example_refuses() {
    local wanted=$1 code=0
    shift
    "$example" "$@" >"$scratch/out" 2>"$scratch/err" || code=$?
    printf 'exit %s: %s\n' "$code" "$(cat "$scratch/err")"
    if ((code != wanted)) || [[ -s $scratch/out ]] || (($(wc -l <"$scratch/err") != 1)); then
        echo "expected: exit $wanted, nothing on stdout, one line on stderr; the arguments were: $*"
        return 1
    fi
}

# Starts a web server that knows nothing of ranges; sets `server` and `port`.
start_server_without_ranges() {
    have python3 || install_packages python3
    mkdir "$scratch/www"
    head -c 1000000 /dev/zero >"$scratch/www/image"
    python3 -u -m http.server 0 --bind 127.0.0.1 --directory "$scratch/www" >"$scratch/server" 2>&1 &
    server=$!
    until port=$(grep -o 'port [0-9]*' "$scratch/server"); do
        kill -0 "$server"
        sleep 0.1
    done
    port=${port#port }
}

check_example() (
    # What is unreachable must not be asked of a proxy.
    export no_proxy=127.0.0.1 NO_PROXY=127.0.0.1
    server=
    scratch=$(mktemp -d)
    trap 'rm -r "$scratch"; [[ -z $server ]] || kill "$server" || true' EXIT
    example=$CARGO_TARGET_DIR/release/examples/remote_image

    cargo run --locked --release --example remote_image

    echo "twice with one cache file: the second start needs no network"
    "$example" --cache "$scratch/cache" >"$scratch/first"
    "$example" --cache "$scratch/cache" | tee "$scratch/second"
    # A row of the table: who read, how much, and how many requests that took.
    local row='^([0-9]+ readers?|ahead, 1 reader), (cold|warm) +[0-9.]+ [A-Za-z]+ +'
    [[ $(grep -cE "${row}[1-9][0-9]* " "$scratch/first") -ge 1 ]]
    [[ $(grep -cE "${row}0 " "$scratch/second") -eq 4 ]]

    echo "twice with one directory, whose budget has no room for it once it is closed"
    "$example" --cache-dir "$scratch/images" >"$scratch/first"
    "$example" --cache-dir "$scratch/images" --max 1M | tee "$scratch/second"
    [[ $(grep -cE "${row}0 " "$scratch/second") -eq 4 ]]
    grep -q ', in use$' "$scratch/second"

    echo "what cannot work says so in one line"
    example_refuses 2 --no-such-option
    example_refuses 2 not-a-url
    example_refuses 2 --max 1M
    example_refuses 2 --cache-dir "$scratch/images" --max much
    example_refuses 2 --cache-dir "$scratch/images" --cache "$scratch/cache"
    example_refuses 1 --cache-dir "$scratch/cache"
    example_refuses 1 http://127.0.0.1:1/image
    example_refuses 1 --cache "$scratch/no/such/directory/cache"

    echo "an image of a disk is no cache, and is the same afterwards"
    have mkfs.ext4 || install_packages e2fsprogs
    truncate -s 48M "$scratch/ext4.img"
    mkfs.ext4 -q "$scratch/ext4.img"
    cp "$scratch/ext4.img" "$scratch/victim.img"
    example_refuses 1 --cache "$scratch/victim.img"
    cmp "$scratch/ext4.img" "$scratch/victim.img"

    start_server_without_ranges
    example_refuses 1 "http://127.0.0.1:$port/image"
)
