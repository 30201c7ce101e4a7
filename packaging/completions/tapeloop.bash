# shellcheck shell=bash
# Completion of tapeloop in bash: source it, or install it as bash-completion/completions/tapeloop.

_tapeloop_rings() { # the names of the rings, if a recorder runs that can be asked at once
    local state=${TAPELOOP_STATE:-/var/lib/tapeloop} word before=
    for word in "${COMP_WORDS[@]}"; do
        [ "$before" = --state ] && state=$word
        before=$word
    done
    [ -S "$state/control.sock" ] || return 0
    tapeloop --state "$state" --quiet ring list 2>/dev/null </dev/null |
        sed -n '2,$s/ .*//p'
}

_tapeloop_jobs() { # their numbers, and the names of what is kept
    local state=${TAPELOOP_STATE:-/var/lib/tapeloop} word before=
    for word in "${COMP_WORDS[@]}"; do
        [ "$before" = --state ] && state=$word
        before=$word
    done
    [ -S "$state/control.sock" ] || return 0
    tapeloop --state "$state" --quiet job list 2>/dev/null </dev/null |
        sed -n '2,$s/^ *\([0-9]*\) *\([^ ]*\) .*/\1 \2/p'
}

_tapeloop_interfaces() {
    local path
    for path in /sys/class/net/*; do
        [ -e "$path" ] && echo "${path##*/}"
    done
}

_tapeloop() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local global="--state --json --quiet --verbose --help --version"
    local commands="ring disk rule run record import estimate extract keep job purge verify rebuild status history events audit flush
        interfaces shutdown version help"
    local command='' options='' word skip='' i operands=0
    COMPREPLY=()

    # The command, and how many operands stand behind it. "--state DIR" and the like are two words.
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [ -n "$skip" ]; then
            skip=
            continue
        fi
        case $word in
        --state | --disk | --copies | --segment-size | --name | --interface | -i | --backend | \
            --snapshot-length | -s | --buffer | -B | --for | --from | --to | --write | -w | --expires | \
            --format | --packets-max | -c | --bytes-max | --seconds-max | --after | --limit | --head | --at | --revision | --rules | --listen | --port | --host | --web-state | \
            --certificate | --key | --web-namespace)
            skip=1
            ;;
        -*) ;;
        *)
            case $command in
            '' | ring | disk | rule | audit | job) command="${command:+$command }$word" ;;
            help) command="help" ;;
            *) operands=$((operands + 1)) ;;
            esac
            ;;
        esac
    done

    case $command in
    'ring create') options="--disk --copies --segment-size --force" ;;
    'ring delete') options="--wipe" ;;
    'ring adopt') options="--disk --name" ;;
    'disk add' | 'disk replace' | 'disk resume') options="--force" ;;
    'disk remove') options="--forget" ;;
    'rule list') options="--text" ;;
    'rule add') options="--at --revision" ;;
    'rule test') options="--rules --from --to" ;;
    'rule set' | 'rule move' | 'rule delete' | 'rule replace') options="--revision" ;;
    run) options="--listen --port --host --web-state --certificate --key --web-namespace" ;;
    record)
        options="--interface --backend --snapshot-length --buffer --no-promiscuous --outgoing --no-outgoing --for
            --detach --stop"
        ;;
    extract) options="--from --to --write --format --query --follow --headers --no-index --packets-max --bytes-max --seconds-max --explain" ;;
    estimate) options="--from --to --query" ;;
    purge) options="--from --to --query --dry-run --yes --give-up-away" ;;
    keep)
        options="--from --to --format --query --headers --no-index --packets-max --bytes-max --seconds-max --name --expires
            --detach"
        ;;
    'job start') options="--from --to --format --query --headers --no-index --packets-max --bytes-max --seconds-max --wait" ;;
    'job show') options="--explain" ;;
    'job get') options="--write" ;;
    verify) options="--repair" ;;
    status) options="--watch" ;;
    history) options="--from --to --interface" ;;
    events | 'audit list') options="--after --limit" ;;
    'audit verify') options="--head" ;;
    esac

    local words=
    case $previous in
    --state | --web-state)
        mapfile -t COMPREPLY < <(compgen -d -- "$current")
        compopt -o filenames
        return
        ;;
    --disk | --write | -w | --rules | --certificate | --key | --web-namespace)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        compopt -o filenames
        return
        ;;
    --interface | -i) words=$(_tapeloop_interfaces) ;;
    --backend) words="auto packet pcap generator" ;;
    --format) words="pcapng pcap pcap-us" ;;
    --copies) words="1 2 3 4" ;;
    --listen) words="127.0.0.1 0.0.0.0 ::" ;;
    --from | --to) words="now -15m -1h -1d" ;;
    --expires) words="+1d +7d +30d" ;;
    --segment-size | --name | --snapshot-length | -s | --buffer | -B | --for | --packets-max | \
        -c | --bytes-max | --seconds-max | --after | --limit | --head | --at | --revision | --port | --host)
        return
        ;;
    *)
        case $current in
        -*) words="$options $global" ;;
        *)
            case $command in
            '') words=$commands ;;
            audit) words="list verify" ;;
            job) words="start list show get cancel delete" ;;
            'job show' | 'job get' | 'job cancel' | 'job delete') [ "$operands" -eq 0 ] && words=$(_tapeloop_jobs) ;;
            ring) words="create list show set delete adopt" ;;
            disk) words="list add remove resume replace locate" ;;
            rule) words="list add set move delete replace test" ;;
            help) words="$commands" ;;
            'ring adopt' | import)
                if [ "$command" = import ] && [ "$operands" -eq 0 ]; then
                    words=$(_tapeloop_rings)
                else
                    mapfile -t COMPREPLY < <(compgen -f -- "$current")
                    compopt -o filenames
                    return
                fi
                ;;
            'disk add' | 'disk remove' | 'disk resume' | 'disk replace' | 'disk locate')
                if [ "$operands" -eq 0 ] && [ "$command" != 'disk locate' ]; then
                    words=$(_tapeloop_rings)
                elif [ "$operands" -eq 1 ] && [ "$command" = 'disk locate' ]; then
                    words="on off"
                else
                    mapfile -t COMPREPLY < <(compgen -f -- "$current")
                    compopt -o filenames
                    return
                fi
                ;;
            'ring set')
                if [ "$operands" -eq 0 ]; then
                    words="$(_tapeloop_rings) max-rings="
                else
                    words="copies= buffer_bytes= flush_window= index= disk_wait= disk_retry= duplicates= duplicate_window=
                        duplicate_ignore_ttl= duplicate_ignore_vlan= job_bytes= job_keep= keep_bytes="
                    compopt -o nospace
                fi
                ;;
            'rule move')
                case $operands in
                0) words=$(_tapeloop_rings) ;;
                2) words="up down" ;;
                esac
                ;;
            'rule replace' | 'rule test')
                if [ "$operands" -eq 0 ]; then
                    words=$(_tapeloop_rings)
                else
                    mapfile -t COMPREPLY < <(compgen -f -- "$current")
                    compopt -o filenames
                    return
                fi
                ;;
            'rule list' | 'rule add' | 'rule set' | 'rule delete' | 'ring show' | 'ring delete' | 'disk list' | record | estimate | extract | keep | 'job start' | 'job list' | purge | verify | rebuild | \
                status | history | flush)
                [ "$operands" -eq 0 ] && words=$(_tapeloop_rings)
                ;;
            esac
            ;;
        esac
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -F _tapeloop tapeloop
