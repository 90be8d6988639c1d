function __lamella_words
    set -l given (commandline -opc)
    lamella completion fish -- $given[2..] (commandline -ct | string unescape) 2>/dev/null
end
complete -c lamella -f -a '(__lamella_words)'
