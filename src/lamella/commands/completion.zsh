#compdef lamella
_lamella() {
    local line word
    local -a whole whole_shown begun begun_shown
    for line in "${(@f)$(lamella completion zsh -- "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}"; do
        word=${line%%$'\t'*} line=${${line/$'\t'/  }%  }
        if [[ $word == *[=./] ]]; then
            begun+=("$word") begun_shown+=("$line")
        elif [[ -n $word ]]; then
            whole+=("$word") whole_shown+=("$line")
        fi
    done
    compadd -l -d whole_shown -a whole
    compadd -l -S '' -d begun_shown -a begun
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _lamella lamella
