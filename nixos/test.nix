# In virtual machines: a server, three hosts with the module, and an operator. nixos-rebuild is made up, since building a
# system would need the network; everything around it is as on a real host.
{ module, packages }:
{
  name = "homelab-deploy";

  nodes =
    let
      # A repository for revisions to be looked up in, at the same path on every machine.
      repository =
        pkgs:
        pkgs.runCommand "configuration" { nativeBuildInputs = [ pkgs.git ]; } ''
          export GIT_AUTHOR_DATE=2026-01-01T00:00:00Z GIT_COMMITTER_DATE=2026-01-01T00:00:00Z
          git init --quiet --initial-branch main $out
          git -C $out -c user.name=nobody -c user.email=nobody@example.com commit --quiet --allow-empty -m first
        '';

      host =
        tier: role:
        { lib, pkgs, ... }:
        {
          imports = [ module ];
          services.homelab-deploy.listener = {
            enable = true;
            inherit tier role;
            natsUrl = "nats://nats:4222";
            nkeyFile = "/root/listener.seed";
            flakeUrl = "git+file://${repository pkgs}";
          };
          # Its key comes while the test runs.
          systemd.services.homelab-deploy-listener.wantedBy = lib.mkForce [ ];
          systemd.services.homelab-deploy-listener.path = lib.mkBefore [
            (pkgs.writeShellScriptBin "nixos-rebuild" ''
              echo "$@" >> /root/rebuilds
              if [ -e /root/restart-listener ]; then systemctl restart homelab-deploy-listener; fi
              sleep 3
              if [ -e /root/fail ]; then echo "error: attribute missing" >&2; exit 1; fi
            '')
          ];
        };
    in
    {
      nats =
        { pkgs, ... }:
        {
          networking.firewall.allowedTCPPorts = [ 4222 ];
          environment.systemPackages = [ pkgs.nats-server ];
        };

      operator =
        { pkgs, ... }:
        {
          environment.systemPackages = [
            pkgs.git
            packages.${pkgs.stdenv.hostPlatform.system}.default
          ];
          environment.variables = {
            HOMELAB_DEPLOY_NATS_URL = "nats://nats:4222";
            HOMELAB_DEPLOY_NKEY_FILE = "/root/admin.seed";
          };
          environment.etc."plan.toml".text = ''
            revision = "main"
            [[wave]]
            targets = "test.all"
            [[wave]]
            targets = "prod.role.dns"
          '';
        };

      canary = host "test" null;
      ns1 = host "prod" "dns";
      ns2 = host "prod" "dns";
    };

  testScript = ''
    hosts = {"canary": (canary, "test.canary"), "ns1": (ns1, "prod.ns1.dns"), "ns2": (ns2, "prod.ns2.dns")}

    start_all()
    with subtest("keys and permissions come from the program itself"):
        users = ["--admin=" + operator.succeed("homelab-deploy keygen /root/admin.seed").strip()]
        for name, (machine, path) in hosts.items():
            key = operator.succeed(f"homelab-deploy keygen /root/{name}.seed").strip()
            users.append(f"--listener={path}={key}")
            seed = operator.succeed(f"cat /root/{name}.seed").strip()
            machine.succeed(f"umask 077; echo {seed} > /root/listener.seed")
        block = operator.succeed("homelab-deploy nats-config " + " ".join(users))
        nats.succeed(f"cat > /root/nats.conf <<'END'\n{block}\nEND")
        nats.succeed("systemd-run --unit=nats nats-server --config /root/nats.conf")
        nats.wait_for_open_port(4222)

    for machine, _ in hosts.values():
        machine.succeed("systemctl start homelab-deploy-listener")
    for name in hosts:
        operator.wait_until_succeeds(f"homelab-deploy hosts --json | grep -q {name}")

    with subtest("a failing canary halts the rollout"):
        canary.succeed("touch /root/fail")
        status, output = operator.execute("homelab-deploy apply /etc/plan.toml --yes 2>&1")
        assert status == 1, output
        canary.succeed("test $(wc -l < /root/rebuilds) = 1")
        ns1.fail("test -e /root/rebuilds")
        ns2.fail("test -e /root/rebuilds")
        canary.succeed("rm /root/fail")

    with subtest("a rollout succeeds, though a run restarts its own listener"):
        ns1.succeed("touch /root/restart-listener")
        before = ns1.succeed("systemctl show -P MainPID homelab-deploy-listener")
        operator.succeed("homelab-deploy apply /etc/plan.toml --yes")
        after = ns1.succeed("systemctl show -P MainPID homelab-deploy-listener")
        assert before != after, "the listener was not restarted"
        for machine in (ns1, ns2):
            machine.succeed("test $(wc -l < /root/rebuilds) = 1")
  '';
}
