#!/usr/bin/env bash
# Approves requests for edgehold's serving certificate, after looking at each (docs/serving-certificate.md).
#
#   approve.sh --address IP [--address IP ...] [--domain cluster.local] [--name NAME ...] [--dry-run] CSR...
#
# --address: a listen address of edgehold on those nodes; --name: an entry of csr.names. Needs kubectl and openssl.
# Exit status: 0 if every request was approved (or would be), 1 if one was not.
set -euo pipefail

domain=cluster.local
dry_run=
allowed=()
requests=()
while [ $# -gt 0 ]; do
    case $1 in
        --address) allowed+=("IP:$2"); shift 2 ;;
        --name) allowed+=("DNS:$2"); shift 2 ;;
        --domain) domain=$2; shift 2 ;;
        --dry-run) dry_run=1; shift ;;
        -*) echo "unknown option $1" >&2; exit 64 ;;
        *) requests+=("$1"); shift ;;
    esac
done
[ ${#requests[@]} -gt 0 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 64; }

for name in kubernetes kubernetes.default kubernetes.default.svc "kubernetes.default.svc.$domain"; do
    allowed+=("DNS:$name")
done
for address in $(kubectl get service kubernetes --namespace default -o jsonpath='{.spec.clusterIPs[*]}'); do
    allowed+=("IP:$address")
done

refuse() {
    echo "$csr: not approved: $*" >&2
    failed=1
}

field() { kubectl get csr "$csr" -o jsonpath="$1"; }

# openssl writes IPv6 addresses in full, without leading zeros.
full_v6() {
    local address=$1 left right missing part out=()
    left=${address%%::*} right=
    [[ $address != *::* ]] || right=${address#*::}
    local IFS=:
    # shellcheck disable=SC2206
    local lefts=($left) rights=($right)
    missing=$((8 - ${#lefts[@]} - ${#rights[@]}))
    for part in "${lefts[@]}"; do out+=("$(printf '%X' "0x$part")"); done
    if [[ $address == *::* ]]; then
        while [ $missing -gt 0 ]; do out+=(0); missing=$((missing - 1)); done
        for part in "${rights[@]}"; do out+=("$(printf '%X' "0x$part")"); done
    fi
    echo "${out[*]}"
}

is_allowed() {
    local wanted=$1 one
    for one in "${allowed[@]}"; do
        case $one in
            IP:*:*) one="IP Address:$(full_v6 "${one#IP:}")" ;;
            IP:*) one="IP Address:${one#IP:}" ;;
        esac
        [ "$one" != "$wanted" ] || return 0
    done
    return 1
}

check() {
    local username request subject names name decided
    username=$(field '{.spec.username}')
    decided=$(field '{.status.conditions[*].type}')
    [ -z "$decided" ] || { refuse "already decided: $decided"; return 1; }
    [ "$(field '{.spec.signerName}')" = kubernetes.io/kubelet-serving ] || { refuse "another signer"; return 1; }
    case $username in
        system:node:*) ;;
        *) refuse "sent by $username, which is no node"; return 1 ;;
    esac
    for usage in $(field '{.spec.usages}' | tr -d '[]" ' | tr ',' ' '); do
        case $usage in
            digitalsignature | keyencipherment | serverauth) ;;
            *) refuse "asks for $usage"; return 1 ;;
        esac
    done
    request=$(field '{.spec.request}' | base64 -d)
    # Its exit status tells a wrong signature only since OpenSSL 3.3.
    openssl req -noout -verify <<<"$request" 2>&1 | grep -q 'verify OK' || { refuse "its signature is wrong"; return 1; }
    subject=$(openssl req -noout -subject -nameopt RFC2253 <<<"$request")
    [ "$subject" = "subject=CN=$username,O=system:nodes" ] || { refuse "$subject, but sent by $username"; return 1; }
    names=$(openssl req -noout -text <<<"$request" | sed -n '/X509v3 Subject Alternative Name/{n;s/^ *//;s/, /\n/g;p;}')
    [ -n "$names" ] || { refuse "it has no names"; return 1; }
    while IFS= read -r name; do
        is_allowed "$name" || { refuse "it asks for $name"; return 1; }
    done <<<"$names"
}

failed=0
for csr in "${requests[@]}"; do
    check || continue
    if [ -n "$dry_run" ]; then
        echo "$csr: would be approved"
    else
        kubectl certificate approve "$csr"
    fi
done
exit "$failed"
