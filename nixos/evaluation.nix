# What the modules make of settings: the unit of good ones, what they say to bad ones, and what options there are.
{
  lib,
  nixosSystem,
  system,
  modules,
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

  host =
    module:
    nixosSystem {
      inherit system;
      modules = [
        modules.default
        modules.operator
        module
      ];
    };
  evaluate =
    settings: (host { services.homelab-deploy.listener = good // settings; }).config;

  # A whole system has complaints of its own, having neither disk nor boot loader.
  complaintsOf =
    config:
    lib.filter (message: lib.hasInfix "homelab-deploy." message) (
      map (a: a.message) (lib.filter (a: !a.assertion) config.assertions)
    );

  listenerOf = settings: (evaluate settings).services.homelab-deploy.listener;

  unitOf = config: config.systemd.units."homelab-deploy-listener.service".text;

  # The default of an option as it stands in a table.
  shownDefault =
    option:
    if option ? defaultText then
      option.defaultText.text
    else if option ? default then
      builtins.toJSON option.default
    else
      "required";

  describe =
    path: option:
    if option._type or "" == "option" then
      "| `${path}` | ${option.type.description} | ${shownDefault option} | ${option.description} |\n"
    else
      lib.concatStrings (lib.mapAttrsToList (name: describe "${path}.${name}") option);

  optionsOf =
    module:
    (module {
      inherit lib;
      inherit (host { }) config pkgs;
    }).options;
in
rec {
  # The text of the listener's unit; what is not set is set well.
  unit = settings: unitOf (evaluate settings);

  # The program by which root looks at a host.
  doctor =
    settings:
    (builtins.head (
      lib.filter (
        package: package.name == "homelab-deploy-doctor"
      ) (evaluate settings).environment.systemPackages
    )).text;

  # What the module says to settings.
  complaints = settings: complaintsOf (evaluate settings);

  # Settings with one mistake each, and what the module says to them.
  refusals = lib.mapAttrs (_: complaints) {
    dotted-hostname.hostname = "ns1.example.com";
    reserved-hostname.hostname = "operators";
    no-hostname.hostname = "";
    wildcard-role.role = "d*";
    relative-key.nkeyFile = "secrets/listener.seed";
    key-in-store.nkeyFile = "${builtins.storeDir}/listener.seed";
    half-a-certificate.tls.cert = "/run/secrets/cert.pem";
    metrics-by-name.metrics.listen = "localhost:9811";
    firewall-without-metrics.metrics.openFirewall = true;
    pinned-flake.flakeUrl = "git+https://git.example.com/nixos?ref=main";
    flake-without-revisions.flakeUrl = "path:/etc/nixos";
    quoted-attribute.flakeAttr = "ns1\"";
    another-host.nixosRebuildFlags = [ "--target-host=ns2" ];
    unknown-placeholder.deploySubjects = [ "deploy.<tier>.<host>" ];
    subjects-without-role = {
      role = null;
      deploySubjects = [ "deploy.<tier>.role.<role>" ];
    };
  };

  # Settings of a type that the module does not take; to evaluate one is an error.
  mistyped = lib.mapAttrs (_: settings: builtins.toJSON (removeAttrs (listenerOf settings) [ "package" ])) {
    tier.tier = "staging";
    timeout.timeout = 0;
    environment.environment.PROXIES = [ "a" ];
    public-key.publicKey = "SUAB";
    user-units.userUnits = "ignore";
    system-key.systems.trustedKeys = [ "fleet-1" ];
    unknown.natsurl = "nats://h";
  };

  # What the module sets elsewhere in the system.
  ports = settings: (evaluate settings).networking.firewall.allowedTCPPorts;

  # What a system is like whose owner deploys from it.
  operator =
    let
      inherit
        (host {
          programs.homelab-deploy = {
            enable = true;
            natsUrl = "tls://nats.example.com:4222";
            nkeyFile = "$HOME/ops.seed";
            aliases.prod-dns = "deploy.prod.role.dns";
            plans.sunday = ../plans/sunday.toml;
          };
        })
        config
        ;
    in
    {
      inherit (config.environment) variables;
      plans = lib.mapAttrs (_: file: baseNameOf file.source) config.environment.etc;
      packages = map (package: package.name) config.environment.systemPackages;
    };

  # All options, as rows of a table.
  options = lib.concatStrings (
    lib.mapAttrsToList describe {
      "services.homelab-deploy.listener" =
        (optionsOf modules.default).services.homelab-deploy.listener;
      "programs.homelab-deploy" = (optionsOf modules.operator).programs.homelab-deploy;
    }
  );

  # The hosts of a fleet, as they are in a flake.
  fleet = lib.mapAttrs (hostname: settings: host {
    services.homelab-deploy.listener = good // { inherit hostname; } // settings;
  });

  # Holds for every nixpkgs; to evaluate it is the test.
  holds =
    let
      expect = condition: message: lib.assertMsg condition message;
      text = unit { };
      says = words: expect (lib.hasInfix words text) "the unit does not say ${words}:\n${text}";
      refused = said: expect (builtins.length said == 1) "not one complaint but ${builtins.toJSON said}";
      mistake = said: expect (!(builtins.tryEval said).success) "taken: ${builtins.toJSON said}";
    in
    expect (complaints { } == [ ]) "good settings are refused: ${builtins.toJSON (complaints { })}"
    && lib.all refused (builtins.attrValues refusals)
    && lib.all mistake (builtins.attrValues mistyped)
    && expect (operator.plans ? "homelab-deploy/plans/sunday.toml") "the operator has no plan"
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
