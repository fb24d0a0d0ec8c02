# Not among the steps that run by themselves, since it takes hours: mutants of the code that everything rests on, each of
# which some test has to catch. `.ci/run mutants`, or `.ci/run mutants` with MUTANTS='--shard 0/8' for an eighth of it.

check_mutants() {
    cargo mutants --version || cargo install cargo-mutants --locked
    # shellcheck disable=SC2086 # several arguments
    nice cargo mutants --config tests/mutants.toml --output "$CARGO_TARGET_DIR" --no-shuffle ${MUTANTS:-}
}
