echo "building the system configuration..." >&2
echo "these 2 derivations will be built:" >&2
echo "  /nix/store/4f7d0q1m-unit-$host.service.drv" >&2
echo "  /nix/store/9c2h8x5b-nixos-system-$host-25.11.drv" >&2
# Not all hosts are equally fast.
sleep "1.$((${#host} * 13 % 10))"
echo "building '/nix/store/9c2h8x5b-nixos-system-$host-25.11.drv'..." >&2
echo "activating the configuration..." >&2
echo "setting up /etc..." >&2
sleep 0.4
echo "Done. The new configuration is /nix/store/9c2h8x5b-nixos-system-$host-25.11" >&2
