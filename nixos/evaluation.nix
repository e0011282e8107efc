# What the module makes of settings: the unit of good ones, and what it says to bad ones.
{
  lib,
  nixosSystem,
  system,
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
in
rec {
  # The text of the listener's unit; what is not set is set well.
  unit = settings: (evaluate settings).systemd.units."homelab-deploy-listener.service".text;

  # What the module says to settings. A whole system has complaints of its own, having neither disk nor boot loader.
  complaints =
    settings:
    lib.filter (lib.hasPrefix "services.homelab-deploy") (
      map (a: a.message) (lib.filter (a: !a.assertion) (evaluate settings).assertions)
    );

  # Settings with one mistake each, and what the module says to them.
  refusals = lib.mapAttrs (_: complaints) {
    tier = {
      tier = "staging";
    };
    dotted-hostname = {
      hostname = "ns1.example.com";
    };
    reserved-hostname = {
      hostname = "all";
    };
    no-hostname = {
      hostname = "";
    };
    wildcard-role = {
      role = "d*";
    };
    relative-key = {
      nkeyFile = "secrets/listener.seed";
    };
    key-in-store = {
      nkeyFile = "${builtins.storeDir}/listener.seed";
    };
    half-a-certificate = {
      tls.cert = "/run/secrets/cert.pem";
    };
    metrics-without-port = {
      metrics.listen = "127.0.0.1";
    };
    pinned-flake = {
      flakeUrl = "git+https://git.example.com/nixos?ref=main";
    };
    subjects-without-role = {
      role = null;
      deploySubjects = [ "deploy.<tier>.role.<role>" ];
    };
  };

  # Holds for every nixpkgs; to evaluate it is the test.
  holds =
    let
      expect = condition: message: lib.assertMsg condition message;
      text = unit { };
      says = words: expect (lib.hasInfix words text) "the unit does not say ${words}:\n${text}";
      refused = said: expect (builtins.length said == 1) "not one complaint but ${builtins.toJSON said}";
    in
    expect (complaints { } == [ ]) "good settings are refused: ${builtins.toJSON (complaints { })}"
    && lib.all refused (builtins.attrValues refusals)
    && lib.all says [
      ''"--flake-url" "git+https://git.example.com/nixos?dir=a%%20b"''
      ''"--deploy-subject" "deploy.<tier>.role.<role>"''
      "--nkey-file %d/nkey-file"
      "LoadCredential=nkey-file:/run/secrets/listener.seed"
      "Type=notify"
      "Restart=always"
      "StateDirectory=homelab-deploy"
      "X-StopOnRemoval=false"
    ]
    && expect (!(lib.hasInfix "Requires=" text)) "the unit requires another one:\n${text}";
}
