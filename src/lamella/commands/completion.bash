_lamella() {
    mapfile -t COMPREPLY < <(lamella completion bash -- "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
    [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
}
complete -o nosort -F _lamella lamella
