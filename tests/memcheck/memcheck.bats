# shellcheck shell=bash disable=SC2154
@test "memcheck finds no error and no leak of the plugin's" {
    run "$BATS_TEST_DIRNAME/run"
    echo "$output"
    [ "$status" = 0 ]
}
