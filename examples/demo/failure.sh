echo "building the system configuration..." >&2
sleep 1
echo "error:" >&2
echo "       … while evaluating the option 'services.unboundd'" >&2
echo "       error: The option 'services.unboundd' does not exist. Did you mean 'services.unbound'?" >&2
exit 1
