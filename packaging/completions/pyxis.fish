# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_pyxis_global_optspecs
    string join \n store= config= h/help V/version
end

function __fish_pyxis_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_pyxis_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_pyxis_using_subcommand
    set -l cmd (__fish_pyxis_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c pyxis -n "__fish_pyxis_needs_command" -l store -d 'Image store [default: the node\'s store for root, else $XDG_DATA_HOME/pyxis or ~/.local/share/pyxis]' -r -F
complete -c pyxis -n "__fish_pyxis_needs_command" -l config -d 'Site configuration [default: /etc/pyxis/pyxis.toml, if it is there]' -r -F
complete -c pyxis -n "__fish_pyxis_needs_command" -s h -l help -d 'Print help'
complete -c pyxis -n "__fish_pyxis_needs_command" -s V -l version -d 'Print version'
complete -c pyxis -n "__fish_pyxis_needs_command" -f -a "pull" -d 'Import an image from a registry into the store'
complete -c pyxis -n "__fish_pyxis_needs_command" -f -a "images" -d 'List the images of the store'
complete -c pyxis -n "__fish_pyxis_needs_command" -f -a "check" -d 'Tell what this machine can do for containers, and what to change'
complete -c pyxis -n "__fish_pyxis_needs_command" -f -a "verify" -d 'Check the OpenPGP signatures of a SIF file'
complete -c pyxis -n "__fish_pyxis_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pyxis -n "__fish_pyxis_using_subcommand pull" -l store -d 'Image store [default: the node\'s store for root, else $XDG_DATA_HOME/pyxis or ~/.local/share/pyxis]' -r -F
complete -c pyxis -n "__fish_pyxis_using_subcommand pull" -l config -d 'Site configuration [default: /etc/pyxis/pyxis.toml, if it is there]' -r -F
complete -c pyxis -n "__fish_pyxis_using_subcommand pull" -s q -l quiet -d 'Print nothing but errors'
complete -c pyxis -n "__fish_pyxis_using_subcommand pull" -s h -l help -d 'Print help'
complete -c pyxis -n "__fish_pyxis_using_subcommand images" -l store -d 'Image store [default: the node\'s store for root, else $XDG_DATA_HOME/pyxis or ~/.local/share/pyxis]' -r -F
complete -c pyxis -n "__fish_pyxis_using_subcommand images" -l config -d 'Site configuration [default: /etc/pyxis/pyxis.toml, if it is there]' -r -F
complete -c pyxis -n "__fish_pyxis_using_subcommand images" -l json -d 'Print JSON, sizes in bytes'
complete -c pyxis -n "__fish_pyxis_using_subcommand images" -s h -l help -d 'Print help'
complete -c pyxis -n "__fish_pyxis_using_subcommand check" -l image -d 'Also ask a registry for this image\'s manifest, as a start would' -r
complete -c pyxis -n "__fish_pyxis_using_subcommand check" -l store -d 'Image store [default: the node\'s store for root, else $XDG_DATA_HOME/pyxis or ~/.local/share/pyxis]' -r -F
complete -c pyxis -n "__fish_pyxis_using_subcommand check" -l config -d 'Site configuration [default: /etc/pyxis/pyxis.toml, if it is there]' -r -F
complete -c pyxis -n "__fish_pyxis_using_subcommand check" -l json -d 'Print JSON'
complete -c pyxis -n "__fish_pyxis_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pyxis -n "__fish_pyxis_using_subcommand verify" -l keyring -d 'File with the keys of those who may sign; may be given more than once [default: images.keyrings of the site]' -r -F
complete -c pyxis -n "__fish_pyxis_using_subcommand verify" -l store -d 'Image store [default: the node\'s store for root, else $XDG_DATA_HOME/pyxis or ~/.local/share/pyxis]' -r -F
complete -c pyxis -n "__fish_pyxis_using_subcommand verify" -l config -d 'Site configuration [default: /etc/pyxis/pyxis.toml, if it is there]' -r -F
complete -c pyxis -n "__fish_pyxis_using_subcommand verify" -l json -d 'Print JSON'
complete -c pyxis -n "__fish_pyxis_using_subcommand verify" -s h -l help -d 'Print help'
complete -c pyxis -n "__fish_pyxis_using_subcommand help; and not __fish_seen_subcommand_from pull images check verify help" -f -a "pull" -d 'Import an image from a registry into the store'
complete -c pyxis -n "__fish_pyxis_using_subcommand help; and not __fish_seen_subcommand_from pull images check verify help" -f -a "images" -d 'List the images of the store'
complete -c pyxis -n "__fish_pyxis_using_subcommand help; and not __fish_seen_subcommand_from pull images check verify help" -f -a "check" -d 'Tell what this machine can do for containers, and what to change'
complete -c pyxis -n "__fish_pyxis_using_subcommand help; and not __fish_seen_subcommand_from pull images check verify help" -f -a "verify" -d 'Check the OpenPGP signatures of a SIF file'
complete -c pyxis -n "__fish_pyxis_using_subcommand help; and not __fish_seen_subcommand_from pull images check verify help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
