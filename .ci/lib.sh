# What the steps of .ci/run share.

have() {
    command -v "$1" >/dev/null 2>&1
}

update_packages() {
    [[ -n ${packages_updated:-} ]] || apt-get update -qq
    packages_updated=1
}

install_packages() {
    echo "installing from Debian: $*"
    update_packages
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

taken=()

# Runs check_NAME under a heading. It is called plainly, so that `set -e` holds within it.
step() {
    local name=$1 began=$SECONDS
    printf '\n=== %s\n' "$name"
    "check_$name"
    taken+=("$(printf '%-10s %5d s' "$name" "$((SECONDS - began))")")
}

summary() {
    printf '\n=== all steps passed\n'
    printf '%s\n' "${taken[@]}"
    printf '%-10s %5d s\n' together "$SECONDS"
}
