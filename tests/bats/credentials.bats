# Who gets the password: the registry that it is for, and nobody else.

setup() {
    load common
    config=$(alice_dir "config-$BATS_TEST_NUMBER")
    mark=$(wc -l <"$request_log")
}
teardown() { rm -rf "$config" "$alice_home/.docker"; }

netrc() { printf '%s\n' "$@" | install -o "$alice" -m 0600 /dev/stdin "$config/.credentials"; }
requests() { tail -n +$((mark + 1)) "$request_log"; }
# Repositories are new in each test: nothing remembered from another one answers.
pull() { job ENROOT_CONFIG_PATH="$config" "$@" cat /repository; }

@test "no credentials: 401 is told in one line" {
    local name
    for name in basic bearer; do
        pull --container-image="$H#$name/none-$BATS_TEST_NUMBER"
        fails "failed to import docker image: $H#$name" "needs credentials"
    done
    pull --container-image="$H#unauthorized/none-$BATS_TEST_NUMBER"
    fails "failed to import docker image: $H#unauthorized" "wants authentication"
}

@test "wrong credentials" {
    netrc 'machine 127.0.0.1 login alice password not-the-one'
    local name
    for name in basic bearer; do
        pull --container-image="$H#$name/wrong-$BATS_TEST_NUMBER"
        fails "failed to import docker image: $H#$name" "refused the credentials of alice"
        err_lacks not-the-one
    done
}

@test "403: no such image, or none for this user" {
    pull --container-image="$H#denied/x"
    fails "failed to import docker image: $H#denied/x" "needs credentials"
}

@test "Basic, from enroot's .credentials" {
    netrc 'machine 127.0.0.1 login alice password $SECRET'
    pull SECRET="open sesame" --container-image="$H#basic/netrc-$BATS_TEST_NUMBER"
    says "basic/netrc-$BATS_TEST_NUMBER"
}

@test "Bearer, with a password and without" {
    netrc 'machine 127.0.0.1 login alice password $SECRET'
    pull SECRET="open sesame" --container-image="$H#bearer/x-$BATS_TEST_NUMBER"
    says "bearer/x-$BATS_TEST_NUMBER"
    rm "$config/.credentials"
    pull --container-image="$H#bearer-anonymous/x-$BATS_TEST_NUMBER"
    says "bearer-anonymous/x-$BATS_TEST_NUMBER"
}

@test "Docker's config.json" {
    install -d -o "$alice" "$alice_home/.docker"
    printf '{"auths": {"%s": {"auth": "%s"}}}' "$H" "$(printf 'alice:open sesame' | base64)" |
        install -o "$alice" -m 0600 /dev/stdin "$alice_home/.docker/config.json"
    pull --container-image="$H#basic/docker-$BATS_TEST_NUMBER"
    says "basic/docker-$BATS_TEST_NUMBER"
}

# docker_file PATH TEXT: such a file of alice's.
docker_file() { install -d -o "$alice" "$(dirname "$1")" && printf '%s' "$2" | install -o "$alice" -m 0600 /dev/stdin "$1"; }
auths() { printf '{"auths": {"%s": {"auth": "%s"}}}' "$H" "$(printf 'alice:open sesame' | base64)"; }

@test "REGISTRY_AUTH_FILE, and containers/auth.json in XDG_RUNTIME_DIR" {
    docker_file "$config/mine.json" "$(auths)"
    pull REGISTRY_AUTH_FILE="$config/mine.json" --container-image="$H#basic/authfile-$BATS_TEST_NUMBER"
    says "basic/authfile-$BATS_TEST_NUMBER"
    docker_file "$config/run/containers/auth.json" "$(auths)"
    pull XDG_RUNTIME_DIR="$config/run" --container-image="$H#basic/runtime-$BATS_TEST_NUMBER"
    says "basic/runtime-$BATS_TEST_NUMBER"
    # Not those of somebody else.
    chown root: "$config/mine.json"
    pull REGISTRY_AUTH_FILE="$config/mine.json" --container-image="$H#basic/authfile-$BATS_TEST_NUMBER"
    fails "$config/mine.json cannot be read: Permission denied"
}

@test "credHelpers and credsStore: programs that run as the user" {
    printf '#!/bin/sh\nid -un >>%s/asked; echo "$*" >>%s/asked; cat >>%s/asked\necho "{\\"Username\\": \\"alice\\", \\"Secret\\": \\"open sesame\\"}"\n' \
        "$config" "$config" "$config" | install -o "$alice" -m 0755 /dev/stdin "$config/docker-credential-mine"
    local key
    for key in "\"credHelpers\": {\"$H\": \"mine\"}" '"credsStore": "mine"'; do
        docker_file "$alice_home/.docker/config.json" "{$key}"
        pull PATH="$config:/usr/bin:/bin" --container-image="$H#basic/helper-${#key}-$BATS_TEST_NUMBER"
        says "basic/helper-${#key}-$BATS_TEST_NUMBER"
        [ "$(head -n2 "$config/asked")" = "$(printf '%s\nget' "$alice")" ] || { cat "$config/asked"; false; }
        grep -q "$H" "$config/asked"
        rm "$config/asked"
    done
}

@test "another user's credentials stay his: a private image in the store is no way around the registry" {
    netrc 'machine 127.0.0.1 login alice password $SECRET'
    pull SECRET="open sesame" --container-image="$H#basic/private"
    says basic/private
    run --separate-stderr as "$bob" srun --quiet --container-image="$H#basic/private" cat /repository
    fails "needs credentials"
}

@test "another registry that lists a private image's layers does not get them from the store" {
    netrc 'machine 127.0.0.1 login alice password $SECRET'
    pull SECRET="open sesame" --container-image="$H#basic/listed"
    says basic/listed
    run --separate-stderr as "$bob" srun --quiet --container-image="$H#thief/listed" cat /repository
    fails "does not have blob"
}

@test "credentials that the user may not read are not read for him" {
    netrc 'machine 127.0.0.1 login alice password $SECRET'
    chmod 0700 "$config"
    chown root: "$config" "$config/.credentials"
    pull SECRET="open sesame" --container-image="$H#basic/unreadable-$BATS_TEST_NUMBER"
    fails
    [ "$(requests | grep -c Basic || true)" = 0 ]
}

@test "a token realm on another host never sees the password" {
    netrc 'machine 127.0.0.1 login alice password $SECRET'
    pull SECRET="open sesame" --container-image="$H#realm-foreign/x"
    fails "neither https nor the registry itself"
    [ "$(requests | jq -c 'select(.host == "foreign" and .authorization != null)' | wc -l)" = 0 ]
}

@test "realms that are no web address" {
    local name
    for name in realm-file realm-garbage; do
        pull --container-image="$H#$name/x"
        fails "failed to import docker image: $H#$name"
    done
}

@test "a redirect to another host drops the password, and works" {
    netrc 'machine 127.0.0.1 login alice password $SECRET'
    pull SECRET="open sesame" --container-image="$H#redirect-foreign/x-$BATS_TEST_NUMBER"
    says "redirect-foreign/x-$BATS_TEST_NUMBER"
    [ "$(requests | jq -c 'select(.host == "foreign" and (.path | contains("/blobs/")))' | wc -l)" -ge 1 ]
    [ "$(requests | jq -c 'select(.host == "foreign" and .authorization != null)' | wc -l)" = 0 ]
}

@test "the password is in no log and on no command line" {
    netrc 'machine 127.0.0.1 login alice password $SECRET'
    pull SECRET=sesame-in-the-log --container-image="$H#basic/logged"
    fails
    err_lacks sesame-in-the-log
    [ "$(grep -rc sesame-in-the-log "$test_state"/log/slurm* | cut -d: -f2 | sort -u)" = 0 ]
}
