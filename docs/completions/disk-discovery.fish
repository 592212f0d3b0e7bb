# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_disk_discovery_global_optspecs
    string join \n dry-run once print-config exit-code o/output= wide color= config= sysroot= log-format= log-level= node-name= cluster= host-proc= host-etc= adopt-nodes= min-size= max-size= transports= removable= include= exclude= approve= proof= samples= read-timeout= mount-root= layout= filesystem= mount-option= persist= parallel= allow-unprotected-mount-point= observe-only= kubeconfig= namespace= disk-type= on-missing-disk= listen= resync-period= start-spread= grace-period= h/help V/version
end

function __fish_disk_discovery_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_disk_discovery_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_disk_discovery_using_subcommand
    set -l cmd (__fish_disk_discovery_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -s o -l output -d 'Form of the output' -r -f -a "table\t'For people'
json\t'disk-discovery.report/v1 as JSON'
yaml\t'The same as YAML'"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set'
always\t'Always'
never\t'Never'"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l config -d 'Read settings from this YAML file' -r -F
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l sysroot -d 'Read a dump made by `dump` instead of this host' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object per line'"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l log-level -d 'How much is logged' -r -f -a "error\t'Errors'
warn\t'Warnings, too'
info\t'What is done, too'
debug\t'What is decided, too'
trace\t'Everything'"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l node-name -d 'Name of this node [default: the host name in lower case]' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l cluster -d 'UID of the cluster\'s kube-system namespace' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l host-proc -d 'Where the host\'s /proc is, seen from here [default: /proc]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l host-etc -d 'Where the host\'s /etc is, seen from here [default: /etc]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l adopt-nodes -d 'Nodes whose finished disks may be mounted here; globs' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l min-size -d 'Least size of a disk to take [default: 10GiB]' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l max-size -d 'Largest size of a disk to take [default: no limit]' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l transports -d 'Transports to take, separated by commas [default: sata,sas,nvme,virtio,xen,hyper-v]' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l removable -d 'Take removable disks, too' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l include -d 'Take only disks that this or another include matches (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l exclude -d 'Never take disks that this matches; wins over includes (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l approve -d 'Overwrite this disk although it is not blank (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l proof -d 'How much is read to prove a disk blank [default: sampled]' -r -f -a "sampled\t''
full\t''"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l samples -d 'Samples of 4 KiB between the ends of a disk, from 16 [default: 1024]' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l read-timeout -d 'Longest time the reads of a disk may stand still [default: 30s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l mount-root -d 'Directory below which disks are mounted [default: /mnt/longhorn]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l layout -d 'One GPT partition, or the filesystem on the whole disk [default: gpt]' -r -f -a "gpt\t''
disk\t''"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l filesystem -d 'Filesystem to make [default: ext4]' -r -f -a "ext4\t''
xfs\t''"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l mount-option -d 'Mount option besides noatime,nodev,nosuid,noexec (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l persist -d 'How mounts survive a reboot without another run [default: none]' -r -f -a "none\t''
fstab\t''
systemd\t''"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l parallel -d 'Disks prepared at once, 1 to 64; one per physical disk [default: 8]' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l allow-unprotected-mount-point -d 'Mount even where the directory cannot be made immutable' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l observe-only -d 'Only observe: write neither to disks nor to the cluster' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l kubeconfig -d 'Kubeconfig file [default: the pod\'s service account]' -r -F
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l namespace -d 'Longhorn\'s namespace [default: longhorn-system]' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l disk-type -d 'What Longhorn gets; block is refused, with the reason [default: filesystem]' -r -f -a "filesystem\t''
block\t''"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l on-missing-disk -d 'What to do in Longhorn about a disk that vanished [default: report]' -r -f -a "report\t''
disable-scheduling\t''"
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l listen -d 'Where to serve the status page, metrics and probes [default: 127.0.0.1:9880]' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l resync-period -d 'How often to look at the host when nothing happens [default: 10m]' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l start-spread -d 'Time over which agents that start together spread [default: 5s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l grace-period -d 'Longest time that a stop waits for work on disks [default: 25s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l dry-run -d 'Show what every block device is and what would be done, without a cluster'
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l once -d 'Do it: prepare and mount the spare disks, then end'
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l print-config -d 'Print the settings in force as YAML, with the origin of each'
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l exit-code -d 'End with status 2 when --dry-run finds something to do'
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -l wide -d 'Show serial numbers, WWNs, links, hashes and every reason'
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -s V -l version -d 'Print version'
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -f -a "explain" -d 'Tell every check on one device, and what could be changed'
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -f -a "dump" -d 'Write what a pass reads of this host into a new directory, for --sysroot'
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -f -a "completions" -d 'Print completions for a shell'
complete -c disk-discovery -n "__fish_disk_discovery_needs_command" -f -a "man" -d 'Print the manual page'
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -s o -l output -d 'Form of the output' -r -f -a "table\t'For people'
json\t'disk-discovery.report/v1 as JSON'
yaml\t'The same as YAML'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set'
always\t'Always'
never\t'Never'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l config -d 'Read settings from this YAML file' -r -F
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l sysroot -d 'Read a dump made by `dump` instead of this host' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object per line'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l log-level -d 'How much is logged' -r -f -a "error\t'Errors'
warn\t'Warnings, too'
info\t'What is done, too'
debug\t'What is decided, too'
trace\t'Everything'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l node-name -d 'Name of this node [default: the host name in lower case]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l cluster -d 'UID of the cluster\'s kube-system namespace' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l host-proc -d 'Where the host\'s /proc is, seen from here [default: /proc]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l host-etc -d 'Where the host\'s /etc is, seen from here [default: /etc]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l adopt-nodes -d 'Nodes whose finished disks may be mounted here; globs' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l min-size -d 'Least size of a disk to take [default: 10GiB]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l max-size -d 'Largest size of a disk to take [default: no limit]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l transports -d 'Transports to take, separated by commas [default: sata,sas,nvme,virtio,xen,hyper-v]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l removable -d 'Take removable disks, too' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l include -d 'Take only disks that this or another include matches (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l exclude -d 'Never take disks that this matches; wins over includes (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l approve -d 'Overwrite this disk although it is not blank (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l proof -d 'How much is read to prove a disk blank [default: sampled]' -r -f -a "sampled\t''
full\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l samples -d 'Samples of 4 KiB between the ends of a disk, from 16 [default: 1024]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l read-timeout -d 'Longest time the reads of a disk may stand still [default: 30s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l mount-root -d 'Directory below which disks are mounted [default: /mnt/longhorn]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l layout -d 'One GPT partition, or the filesystem on the whole disk [default: gpt]' -r -f -a "gpt\t''
disk\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l filesystem -d 'Filesystem to make [default: ext4]' -r -f -a "ext4\t''
xfs\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l mount-option -d 'Mount option besides noatime,nodev,nosuid,noexec (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l persist -d 'How mounts survive a reboot without another run [default: none]' -r -f -a "none\t''
fstab\t''
systemd\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l parallel -d 'Disks prepared at once, 1 to 64; one per physical disk [default: 8]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l allow-unprotected-mount-point -d 'Mount even where the directory cannot be made immutable' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l observe-only -d 'Only observe: write neither to disks nor to the cluster' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l kubeconfig -d 'Kubeconfig file [default: the pod\'s service account]' -r -F
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l namespace -d 'Longhorn\'s namespace [default: longhorn-system]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l disk-type -d 'What Longhorn gets; block is refused, with the reason [default: filesystem]' -r -f -a "filesystem\t''
block\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l on-missing-disk -d 'What to do in Longhorn about a disk that vanished [default: report]' -r -f -a "report\t''
disable-scheduling\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l listen -d 'Where to serve the status page, metrics and probes [default: 127.0.0.1:9880]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l resync-period -d 'How often to look at the host when nothing happens [default: 10m]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l start-spread -d 'Time over which agents that start together spread [default: 5s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l grace-period -d 'Longest time that a stop waits for work on disks [default: 25s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -l wide -d 'Show serial numbers, WWNs, links, hashes and every reason'
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -s o -l output -d 'Form of the output' -r -f -a "table\t'For people'
json\t'disk-discovery.report/v1 as JSON'
yaml\t'The same as YAML'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set'
always\t'Always'
never\t'Never'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l config -d 'Read settings from this YAML file' -r -F
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l sysroot -d 'Read a dump made by `dump` instead of this host' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object per line'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l log-level -d 'How much is logged' -r -f -a "error\t'Errors'
warn\t'Warnings, too'
info\t'What is done, too'
debug\t'What is decided, too'
trace\t'Everything'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l node-name -d 'Name of this node [default: the host name in lower case]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l cluster -d 'UID of the cluster\'s kube-system namespace' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l host-proc -d 'Where the host\'s /proc is, seen from here [default: /proc]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l host-etc -d 'Where the host\'s /etc is, seen from here [default: /etc]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l adopt-nodes -d 'Nodes whose finished disks may be mounted here; globs' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l min-size -d 'Least size of a disk to take [default: 10GiB]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l max-size -d 'Largest size of a disk to take [default: no limit]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l transports -d 'Transports to take, separated by commas [default: sata,sas,nvme,virtio,xen,hyper-v]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l removable -d 'Take removable disks, too' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l include -d 'Take only disks that this or another include matches (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l exclude -d 'Never take disks that this matches; wins over includes (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l approve -d 'Overwrite this disk although it is not blank (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l proof -d 'How much is read to prove a disk blank [default: sampled]' -r -f -a "sampled\t''
full\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l samples -d 'Samples of 4 KiB between the ends of a disk, from 16 [default: 1024]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l read-timeout -d 'Longest time the reads of a disk may stand still [default: 30s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l mount-root -d 'Directory below which disks are mounted [default: /mnt/longhorn]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l layout -d 'One GPT partition, or the filesystem on the whole disk [default: gpt]' -r -f -a "gpt\t''
disk\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l filesystem -d 'Filesystem to make [default: ext4]' -r -f -a "ext4\t''
xfs\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l mount-option -d 'Mount option besides noatime,nodev,nosuid,noexec (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l persist -d 'How mounts survive a reboot without another run [default: none]' -r -f -a "none\t''
fstab\t''
systemd\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l parallel -d 'Disks prepared at once, 1 to 64; one per physical disk [default: 8]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l allow-unprotected-mount-point -d 'Mount even where the directory cannot be made immutable' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l observe-only -d 'Only observe: write neither to disks nor to the cluster' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l kubeconfig -d 'Kubeconfig file [default: the pod\'s service account]' -r -F
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l namespace -d 'Longhorn\'s namespace [default: longhorn-system]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l disk-type -d 'What Longhorn gets; block is refused, with the reason [default: filesystem]' -r -f -a "filesystem\t''
block\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l on-missing-disk -d 'What to do in Longhorn about a disk that vanished [default: report]' -r -f -a "report\t''
disable-scheduling\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l listen -d 'Where to serve the status page, metrics and probes [default: 127.0.0.1:9880]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l resync-period -d 'How often to look at the host when nothing happens [default: 10m]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l start-spread -d 'Time over which agents that start together spread [default: 5s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l grace-period -d 'Longest time that a stop waits for work on disks [default: 25s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l anonymize -d 'Replace serial numbers, labels, names and UUIDs'
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -l wide -d 'Show serial numbers, WWNs, links, hashes and every reason'
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand dump" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -s o -l output -d 'Form of the output' -r -f -a "table\t'For people'
json\t'disk-discovery.report/v1 as JSON'
yaml\t'The same as YAML'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set'
always\t'Always'
never\t'Never'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l config -d 'Read settings from this YAML file' -r -F
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l sysroot -d 'Read a dump made by `dump` instead of this host' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object per line'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l log-level -d 'How much is logged' -r -f -a "error\t'Errors'
warn\t'Warnings, too'
info\t'What is done, too'
debug\t'What is decided, too'
trace\t'Everything'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l node-name -d 'Name of this node [default: the host name in lower case]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l cluster -d 'UID of the cluster\'s kube-system namespace' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l host-proc -d 'Where the host\'s /proc is, seen from here [default: /proc]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l host-etc -d 'Where the host\'s /etc is, seen from here [default: /etc]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l adopt-nodes -d 'Nodes whose finished disks may be mounted here; globs' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l min-size -d 'Least size of a disk to take [default: 10GiB]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l max-size -d 'Largest size of a disk to take [default: no limit]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l transports -d 'Transports to take, separated by commas [default: sata,sas,nvme,virtio,xen,hyper-v]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l removable -d 'Take removable disks, too' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l include -d 'Take only disks that this or another include matches (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l exclude -d 'Never take disks that this matches; wins over includes (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l approve -d 'Overwrite this disk although it is not blank (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l proof -d 'How much is read to prove a disk blank [default: sampled]' -r -f -a "sampled\t''
full\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l samples -d 'Samples of 4 KiB between the ends of a disk, from 16 [default: 1024]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l read-timeout -d 'Longest time the reads of a disk may stand still [default: 30s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l mount-root -d 'Directory below which disks are mounted [default: /mnt/longhorn]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l layout -d 'One GPT partition, or the filesystem on the whole disk [default: gpt]' -r -f -a "gpt\t''
disk\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l filesystem -d 'Filesystem to make [default: ext4]' -r -f -a "ext4\t''
xfs\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l mount-option -d 'Mount option besides noatime,nodev,nosuid,noexec (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l persist -d 'How mounts survive a reboot without another run [default: none]' -r -f -a "none\t''
fstab\t''
systemd\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l parallel -d 'Disks prepared at once, 1 to 64; one per physical disk [default: 8]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l allow-unprotected-mount-point -d 'Mount even where the directory cannot be made immutable' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l observe-only -d 'Only observe: write neither to disks nor to the cluster' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l kubeconfig -d 'Kubeconfig file [default: the pod\'s service account]' -r -F
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l namespace -d 'Longhorn\'s namespace [default: longhorn-system]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l disk-type -d 'What Longhorn gets; block is refused, with the reason [default: filesystem]' -r -f -a "filesystem\t''
block\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l on-missing-disk -d 'What to do in Longhorn about a disk that vanished [default: report]' -r -f -a "report\t''
disable-scheduling\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l listen -d 'Where to serve the status page, metrics and probes [default: 127.0.0.1:9880]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l resync-period -d 'How often to look at the host when nothing happens [default: 10m]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l start-spread -d 'Time over which agents that start together spread [default: 5s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l grace-period -d 'Longest time that a stop waits for work on disks [default: 25s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -l wide -d 'Show serial numbers, WWNs, links, hashes and every reason'
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -s o -l output -d 'Form of the output' -r -f -a "table\t'For people'
json\t'disk-discovery.report/v1 as JSON'
yaml\t'The same as YAML'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l color -d 'When to use colour' -r -f -a "auto\t'On a terminal, unless `NO_COLOR` is set'
always\t'Always'
never\t'Never'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l config -d 'Read settings from this YAML file' -r -F
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l sysroot -d 'Read a dump made by `dump` instead of this host' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object per line'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l log-level -d 'How much is logged' -r -f -a "error\t'Errors'
warn\t'Warnings, too'
info\t'What is done, too'
debug\t'What is decided, too'
trace\t'Everything'"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l node-name -d 'Name of this node [default: the host name in lower case]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l cluster -d 'UID of the cluster\'s kube-system namespace' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l host-proc -d 'Where the host\'s /proc is, seen from here [default: /proc]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l host-etc -d 'Where the host\'s /etc is, seen from here [default: /etc]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l adopt-nodes -d 'Nodes whose finished disks may be mounted here; globs' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l min-size -d 'Least size of a disk to take [default: 10GiB]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l max-size -d 'Largest size of a disk to take [default: no limit]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l transports -d 'Transports to take, separated by commas [default: sata,sas,nvme,virtio,xen,hyper-v]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l removable -d 'Take removable disks, too' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l include -d 'Take only disks that this or another include matches (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l exclude -d 'Never take disks that this matches; wins over includes (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l approve -d 'Overwrite this disk although it is not blank (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l proof -d 'How much is read to prove a disk blank [default: sampled]' -r -f -a "sampled\t''
full\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l samples -d 'Samples of 4 KiB between the ends of a disk, from 16 [default: 1024]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l read-timeout -d 'Longest time the reads of a disk may stand still [default: 30s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l mount-root -d 'Directory below which disks are mounted [default: /mnt/longhorn]' -r -f -a "(__fish_complete_directories)"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l layout -d 'One GPT partition, or the filesystem on the whole disk [default: gpt]' -r -f -a "gpt\t''
disk\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l filesystem -d 'Filesystem to make [default: ext4]' -r -f -a "ext4\t''
xfs\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l mount-option -d 'Mount option besides noatime,nodev,nosuid,noexec (repeatable)' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l persist -d 'How mounts survive a reboot without another run [default: none]' -r -f -a "none\t''
fstab\t''
systemd\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l parallel -d 'Disks prepared at once, 1 to 64; one per physical disk [default: 8]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l allow-unprotected-mount-point -d 'Mount even where the directory cannot be made immutable' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l observe-only -d 'Only observe: write neither to disks nor to the cluster' -r -f -a "true\t''
false\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l kubeconfig -d 'Kubeconfig file [default: the pod\'s service account]' -r -F
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l namespace -d 'Longhorn\'s namespace [default: longhorn-system]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l disk-type -d 'What Longhorn gets; block is refused, with the reason [default: filesystem]' -r -f -a "filesystem\t''
block\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l on-missing-disk -d 'What to do in Longhorn about a disk that vanished [default: report]' -r -f -a "report\t''
disable-scheduling\t''"
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l listen -d 'Where to serve the status page, metrics and probes [default: 127.0.0.1:9880]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l resync-period -d 'How often to look at the host when nothing happens [default: 10m]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l start-spread -d 'Time over which agents that start together spread [default: 5s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l grace-period -d 'Longest time that a stop waits for work on disks [default: 25s]' -r
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -l wide -d 'Show serial numbers, WWNs, links, hashes and every reason'
complete -c disk-discovery -n "__fish_disk_discovery_using_subcommand man" -s h -l help -d 'Print help (see more with \'--help\')'
