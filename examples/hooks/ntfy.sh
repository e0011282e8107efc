#!/bin/sh
# Tells a topic of ntfy how a rollout goes. Needs curl and jq.
#
#     on_halt   = ["./ntfy.sh", "https://ntfy.sh/my-topic"]
#     on_finish = ["./ntfy.sh", "https://ntfy.sh/my-topic"]
set -eu
summary=$(cat)
text=$(printf %s "$summary" | jq -r '"\(.name): \(.outcome), \(.hosts.completed) of \(.hosts.total) hosts completed"')
case $(printf %s "$summary" | jq -r .outcome) in
    succeeded) priority=low ;;
    *) priority=high ;;
esac
# A header is one line.
title=$(printf %s "$HOMELAB_DEPLOY_ROLLOUT" | tr -d '[:cntrl:]')
curl --silent --show-error --fail --max-time 20 --header "Priority: $priority" --header "Title: $title" \
    --data-raw "$text" "$1" >/dev/null
