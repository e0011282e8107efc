# What the module makes of good settings, and what it says to bad ones. Evaluating this is the test.
{
  lib,
  runCommand,
  system,
  nixosSystem,
  module,
}:
let
  good = {
    enable = true;
    hostname = "ns1";
    tier = "prod";
    role = "dns";
    natsUrl = "tls://nats.example.com:4222";
    nkeyFile = "/run/secrets/listener.seed";
    flakeUrl = "git+https://git.example.com/nixos?dir=a%20b";
  };

  evaluate =
    settings:
    (nixosSystem {
      inherit system;
      modules = [
        module
        { services.homelab-deploy.listener = good // settings; }
      ];
    }).config;

  # A whole system has complaints of its own, having neither disk nor boot loader.
  complaints =
    settings:
    lib.filter (lib.hasPrefix "services.homelab-deploy") (
      map (a: a.message) (lib.filter (a: !a.assertion) (evaluate settings).assertions)
    );

  complainsOf =
    words: settings:
    let
      said = complaints settings;
    in
    lib.assertMsg (
      lib.length said == 1 && lib.hasInfix words (lib.head said)
    ) "expected one complaint with \"${words}\", got ${builtins.toJSON said}";

  unit = (evaluate { }).systemd.units."homelab-deploy-listener.service".text;
  says = words: lib.assertMsg (lib.hasInfix words unit) "the unit does not say ${words}:\n${unit}";
in
assert complaints { } == [ ];
assert complainsOf "hostname is \"ns1.example.com\"" { hostname = "ns1.example.com"; };
assert complainsOf "hostname is \"all\"" { hostname = "all"; };
assert complainsOf "hostname is \"\"" { hostname = ""; };
assert complainsOf "role is \"d*\"" { role = "d*"; };
assert complainsOf "is relative" { nkeyFile = "secrets/listener.seed"; };
assert complainsOf "must not be in the Nix store" { nkeyFile = ./module.nix; };
assert complainsOf "belong together" { tls.cert = "/run/secrets/cert.pem"; };
assert says ''"--flake-url" "git+https://git.example.com/nixos?dir=a%%20b"'';
assert says ''"--deploy-subject" "deploy.<tier>.role.<role>"'';
assert says "--nkey-file %d/nkey-file";
assert says "LoadCredential=nkey-file:/run/secrets/listener.seed";
assert says "KillMode=process";
assert says "Restart=always";
assert says "StateDirectory=homelab-deploy";
assert !(lib.hasInfix "Requires=" unit);
runCommand "homelab-deploy-module" { } "touch $out"
