#!/usr/bin/env bash
# Makes a throw-away certificate authority and a few pairs for trying edgehold out on one machine.
# Usage: certs/make.sh [DIRECTORY]      (default: certs/out, which git ignores)
# What exists and still verifies is kept; delete the directory to start afresh.
set -euo pipefail
umask 077

out=${1:-"$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/out"}
days=365

mkdir -p "$out"
cd "$out"

# Nothing made here may ever be committed, wherever the directory lies.
printf '*\n' >.gitignore

made=()
kept=()

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

valid() { # NAME: certificate, key and authority belong together, and a week is left
    [[ -s $1.crt && -s $1.key ]] &&
        openssl x509 -in "$1.crt" -noout -checkend 604800 >/dev/null 2>&1 &&
        openssl verify -CAfile ca.crt "$1.crt" >/dev/null 2>&1 &&
        [[ $(openssl x509 -in "$1.crt" -noout -pubkey) == "$(openssl pkey -in "$1.key" -pubout 2>/dev/null)" ]]
}

make_ca() {
    if valid ca; then
        kept+=(ca)
        return
    fi
    new_key ca.key
    openssl req -x509 -new -key ca.key -days "$days" -subj "/CN=edgehold-throw-away-ca" -out ca.crt \
        -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign"
    made+=(ca)
}

make_pair() { # NAME SUBJECT EXTENSIONS
    if valid "$1"; then
        kept+=("$1")
        return
    fi
    new_key "$1.key"
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days "$days" -out "$1.crt" \
        -extfile <(printf '%s\n' "basicConstraints=critical,CA:FALSE" \
            "keyUsage=critical,digitalSignature,keyEncipherment" "$3") 2>/dev/null
    rm -f "$1.csr"
    made+=("$1")
}

make_ca
make_pair server "/CN=localhost" \
    $'extendedKeyUsage=serverAuth\nsubjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1'
make_pair kubelet "/O=system:nodes/CN=system:node:edge-1" "extendedKeyUsage=clientAuth"
make_pair kube-proxy "/CN=system:kube-proxy" "extendedKeyUsage=clientAuth"

chmod 600 ./*.key
chmod 644 ./*.crt

describe() { printf '  %-11s %s, until %s\n' "$1" "$(openssl x509 -in "$1.crt" -noout -subject -nameopt RFC2253 | sed 's/^subject=//')" \
    "$(openssl x509 -in "$1.crt" -noout -enddate | cut -d= -f2)"; }

echo "in $out (NAME.crt and NAME.key):"
for name in "${made[@]}"; do echo "made$(describe "$name")"; done
for name in "${kept[@]}"; do echo "kept$(describe "$name")"; done
