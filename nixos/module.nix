# The listener as a service; `packages` are this flake's, by system.
packages:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.homelab-deploy.listener;
  inherit (lib) mkOption types;

  # Read when the service starts, never when the configuration is built: what Nix reads ends up in the store.
  file = types.either types.path types.str;
  isAbsolute = path: lib.hasPrefix "/" (toString path);
  isInStore = path: lib.hasPrefix builtins.storeDir (toString path);

  rules = import ./rules.nix { inherit lib; };

  refusal = option: text: assertion: why: {
    inherit assertion;
    message = "services.homelab-deploy.listener.${option} is \"${text}\", ${why}.";
  };

  token =
    option: name:
    refusal option name (rules.isToken name)
      "which cannot be part of a NATS subject: it must not be empty, contain dots, wildcards or white space, or be one of ${lib.concatStringsSep ", " rules.reserved}";

  subject =
    option: text:
    refusal option text (rules.isSubjectTemplate text)
      "which is no NATS subject: it consists of words with dots between them, and the only ones in angle brackets are ${lib.concatStringsSep ", " rules.placeholders}";

  # As a word of ExecStart, in which systemd expands % and $.
  word = text: lib.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON (toString text));

  # What `doctor --listener` has to know as well.
  place = [
    "--hostname"
    cfg.hostname
    "--tier"
    cfg.tier
    "--nats-url"
    cfg.natsUrl
    "--flake-url"
    cfg.flakeUrl
  ];
  role = lib.optionals (cfg.role != null) [
    "--role"
    cfg.role
  ];

  flags =
    place
    ++ [
      "--timeout"
      cfg.timeout
      "--discover-subject"
      cfg.discoverSubject
    ]
    ++ role
    ++ lib.optionals (cfg.metrics.listen != null) [
      "--metrics-listen"
      cfg.metrics.listen
    ]
    ++ lib.optionals (cfg.flakeAttr != null) [
      "--flake-attr"
      cfg.flakeAttr
    ]
    ++ lib.optionals (cfg.userUnits != "fail") [
      "--user-units"
      cfg.userUnits
    ]
    ++ lib.concatMap (key: [
      "--system-key"
      key
    ]) cfg.systems.trustedKeys
    # In one word: they begin with hyphens themselves.
    ++ map (flag: "--nixos-rebuild-flag=${flag}") cfg.nixosRebuildFlags
    ++ lib.concatMap (subject: [
      "--deploy-subject"
      subject
    ]) cfg.deploySubjects;

  # Handed over by systemd, which reads them as root: the listener finds them under names that it chose itself. Where
  # systemd cannot do that, the listener reads them where they are.
  credentials =
    let
      credential = option: flag: path: { inherit option flag path; };
    in
    lib.filter ({ path, ... }: path != null) [
      (credential "nkeyFile" "nkey-file" cfg.nkeyFile)
      (credential "tls.ca" "tls-ca" cfg.tls.ca)
      (credential "tls.cert" "tls-cert" cfg.tls.cert)
      (credential "tls.key" "tls-key" cfg.tls.key)
    ];

  # nixos-rebuild calls all of these; without git, fetching fails with a line that does not say so.
  path = [
    config.system.build.nixos-rebuild
    config.nix.package
    config.programs.ssh.package
    config.systemd.package
    pkgs.gitMinimal
  ];

  # As a word of a shell.
  quoted = text: "'${lib.replaceStrings [ "'" ] [ "'\\''" ] (toString text)}'";

  # Looks at this host as its listener would.
  doctor = pkgs.writeShellScriptBin "homelab-deploy-doctor" ''
    export PATH=${lib.concatStringsSep ":" (map (package: "${package}/bin") path)}:$PATH
    exec ${cfg.package}/bin/homelab-deploy doctor --listener ${
      lib.concatStringsSep " " (
        map quoted (
          place
          ++ role
          ++ lib.concatMap (
            { flag, path, ... }:
            [
              "--${flag}"
              path
            ]
          ) credentials
        )
      )
    } "$@"
  '';
in
{
  options.services.homelab-deploy.listener = {
    enable = lib.mkEnableOption "the homelab-deploy listener, which accepts deployments of this host";

    package = mkOption {
      type = types.package;
      default = packages.${pkgs.stdenv.hostPlatform.system}.default;
      defaultText = lib.literalMD "the package of the homelab-deploy flake";
      description = "The homelab-deploy to run.";
    };

    hostname = mkOption {
      type = types.str;
      default = config.networking.hostName;
      defaultText = lib.literalExpression "config.networking.hostName";
      description = "The name of this host in subjects and, unless `flakeAttr` says another, in `nixosConfigurations` of the flake.";
    };

    tier = mkOption {
      type = types.enum [
        "test"
        "prod"
      ];
      example = "prod";
      description = "`test` for a host on which changes are tried first, `prod` for a host that others rely on.";
    };

    role = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "dns";
      description = "The role of this host, so that it can be deployed together with the other hosts of that role.";
    };

    natsUrl = mkOption {
      type = types.str;
      example = "nats://nats.example.com:4222";
      description = "The NATS server, or several with commas between them.";
    };

    nkeyFile = mkOption {
      type = file;
      example = "/run/secrets/homelab-deploy.seed";
      description = "The file with the seed of this host's NKey. Root must be able to read it, and nobody else has to.";
    };

    flakeUrl = mkOption {
      type = types.str;
      example = "git+https://git.example.com/nixos-configs.git";
      description = "The flake with the configuration of this host. Each request brings the revision.";
    };

    flakeAttr = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "ns1.example.com";
      description = "The name of this host's configuration in `nixosConfigurations`; null for `hostname`.";
    };

    nixosRebuildFlags = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [
        "--option"
        "cores"
        "2"
      ];
      description = "Arguments to add to each call of `nixos-rebuild`. Those that select another system or another host are refused.";
    };

    systems.trustedKeys = mkOption {
      type = types.listOf (types.strMatching "[^:[:space:]]+:[A-Za-z0-9+/]{43}=");
      default = [ ];
      example = [ "fleet-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
      description = "The public keys that may sign systems of this host that are built elsewhere, as Nix writes them. The host fetches a system that one of them has signed, and evaluates and builds nothing. Without a key it accepts none. Each fetched path also has to be signed as `nix.settings.trusted-public-keys` demands.";
    };

    userUnits = mkOption {
      type = types.enum [
        "fail"
        "warn"
      ];
      default = "fail";
      description = "The result of a deployment after which units of a user fail: failed, or completed with a warning.";
    };

    publicKey = mkOption {
      type = types.nullOr (types.strMatching "U[A-Z2-7]{55}");
      default = null;
      description = "The public key that goes with `nkeyFile`. The listener does not need it; `lib.natsAuthorization` of the flake generates the server's permissions from it.";
    };

    timeout = mkOption {
      type = types.ints.positive;
      default = 600;
      description = "How long a deployment may take, in seconds.";
    };

    deploySubjects = mkOption {
      type = types.listOf types.str;
      default = [
        "deploy.<tier>.<hostname>"
        "deploy.<tier>.all"
        "deploy.<tier>.role.<role>"
      ];
      description = "The subjects to accept requests on. One that contains `<role>` is left out if the host has no role.";
    };

    discoverSubject = mkOption {
      type = types.str;
      default = "deploy.discover";
      description = "The subject of discovery requests.";
    };

    environment = mkOption {
      type = types.attrsOf (
        types.nullOr (
          types.oneOf [
            types.str
            types.path
            types.package
          ]
        )
      );
      default = { };
      example.GIT_SSH_COMMAND = "ssh -i /run/secrets/deploy-key";
      description = "Further environment variables, for the listener and for `nixos-rebuild`; null removes one. They can be read by everyone on this host.";
    };

    useCredentials = mkOption {
      type = types.bool;
      default = !config.boot.isContainer;
      defaultText = lib.literalExpression "!config.boot.isContainer";
      description = "Whether systemd passes the files with keys to the listener (`LoadCredential=`). Images for LXC and Incus do not support that: there the listener reads the files itself, and they must belong to root.";
    };

    tls = {
      ca = mkOption {
        type = types.nullOr file;
        default = null;
        description = "The authorities that may have signed the server's certificate, in PEM; null for the system's.";
      };
      cert = mkOption {
        type = types.nullOr file;
        default = null;
        description = "A client certificate, in PEM.";
      };
      key = mkOption {
        type = types.nullOr file;
        default = null;
        description = "The key of the client certificate, in PEM.";
      };
    };

    metrics = {
      listen = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "127.0.0.1:9811";
        description = "The address on which to serve Prometheus metrics, at `/metrics`; null to serve none.";
      };
      openFirewall = mkOption {
        type = types.bool;
        default = false;
        description = "Whether to open the port of `metrics.listen` in the firewall.";
      };
    };

    extraFlags = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "Further flags of `homelab-deploy listener`.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      (token "hostname" cfg.hostname)
      (subject "discoverSubject" cfg.discoverSubject)
      (refusal "natsUrl" cfg.natsUrl
        (rules.isNatsUrl (lib.any (file: file != null) (builtins.attrValues cfg.tls)) cfg.natsUrl)
        "which no server can be reached by: give nats://HOST:PORT or tls://HOST:PORT, or several with commas between them. Once one of them begins with tls:// or a file for TLS is set, all do"
      )
      (refusal "flakeUrl" cfg.flakeUrl (rules.isFlakeUrl cfg.flakeUrl)
        "which no revision can be added to: give one that begins with git+https://, git+ssh://, git+http://, git+file:///, github:, gitlab: or sourcehut:, without #, ref or rev, and with % and two digits for characters that no URL has"
      )
      {
        assertion = lib.any (
          subject: cfg.role != null || !(lib.hasInfix "<role>" subject)
        ) cfg.deploySubjects;
        message = "services.homelab-deploy.listener.deploySubjects leaves nothing to listen on: set role, or a subject without <role>.";
      }
      {
        assertion = cfg.metrics.openFirewall -> cfg.metrics.listen != null;
        message = "services.homelab-deploy.listener.metrics.openFirewall opens no port: set metrics.listen, too.";
      }
      {
        assertion = (cfg.tls.cert == null) == (cfg.tls.key == null);
        message = "services.homelab-deploy.listener.tls.cert and tls.key belong together: set both or neither.";
      }
      {
        assertion =
          !(lib.any isInStore (
            lib.filter (path: path != null) [
              cfg.nkeyFile
              cfg.tls.key
            ]
          ));
        message = "services.homelab-deploy.listener.nkeyFile and tls.key must not be in the Nix store, where everyone can read them: give the path as a string, of a file that only root can read.";
      }
    ]
    ++ lib.optional (cfg.role != null) (token "role" cfg.role)
    ++ lib.optional (cfg.flakeAttr != null) (
      refusal "flakeAttr" cfg.flakeAttr (rules.isFlakeAttr cfg.flakeAttr)
        "which is no name in nixosConfigurations: it consists of letters, digits, _, ., + and -, and begins with none of the last three"
    )
    ++ lib.optional (cfg.metrics.listen != null) (
      refusal "metrics.listen" cfg.metrics.listen (rules.isSocketAddress cfg.metrics.listen)
        "which is no IP address with a port, as 127.0.0.1:9811 and [::]:9811 are"
    )
    ++ map (subject "deploySubjects") cfg.deploySubjects
    ++ map (
      flag:
      refusal "nixosRebuildFlags" flag (rules.isRebuildFlag flag)
        "which makes nixos-rebuild deploy something else than a request asks for, or somewhere else"
    ) cfg.nixosRebuildFlags
    ++ map (
      { option, path, ... }:
      {
        assertion = isAbsolute path;
        message = "services.homelab-deploy.listener.${option} is \"${toString path}\", which is relative, and a service starts in no folder of yours: give an absolute path.";
      }
    ) credentials;

    networking.firewall.allowedTCPPorts = lib.optional (
      cfg.metrics.openFirewall && cfg.metrics.listen != null
    ) (lib.toIntBase10 (lib.last (lib.splitString ":" cfg.metrics.listen)));

    environment.systemPackages = [ doctor ];

    systemd.services.homelab-deploy-listener = {
      description = "homelab-deploy listener";
      wantedBy = [ "multi-user.target" ];
      # Only wants: what a switch restarts must not take the listener with it.
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];

      # A switch that changes this unit restarts it in one step; a run has its own.
      stopIfChanged = false;
      unitConfig.X-StopOnRemoval = false;
      startLimitIntervalSec = 0;

      # systemd sets no HOME for root's services, and git and nix look for their settings and caches there.
      environment =
        config.nix.envVars
        // config.networking.proxy.envVars
        // {
          HOME = "/root";
        }
        // cfg.environment;
      inherit path;

      serviceConfig = {
        # Up once it hears requests, or after a moment without a server; alive as long as the loop that serves them turns.
        Type = "notify";
        WatchdogSec = 60;
        ExecStart = lib.concatStringsSep " " (
          [ "${cfg.package}/bin/homelab-deploy listener" ]
          ++ map word flags
          ++ map (
            { flag, path, ... }: "--${flag} ${if cfg.useCredentials then "%d/${flag}" else word path}"
          ) credentials
          ++ map word cfg.extraFlags
        );
        LoadCredential = lib.optionals cfg.useCredentials (
          map ({ flag, path, ... }: "${flag}:${lib.replaceStrings [ "%" ] [ "%%" ] (toString path)}") credentials
        );
        StateDirectory = "homelab-deploy";
        StateDirectoryMode = "0700";
        # What must be known for sure is kept in memory, off the disk that a build fills, and over restarts of the listener.
        RuntimeDirectory = "homelab-deploy";
        RuntimeDirectoryMode = "0700";
        RuntimeDirectoryPreserve = "yes";

        Restart = "always";
        RestartSec = 5;

        # The listener stays below 32 MB, whatever is asked of it. The rest is room for the git or nix that it starts for a
        # moment to ask about a revision, and for the pages of files, which are given back. A run has its own unit and none of
        # these limits. If something ever does grow, it is slowed down at first, and then it is not the listener that ends.
        MemoryHigh = "128M";
        MemoryMax = "256M";
        OOMPolicy = "continue";

        # The run is a unit of its own, to which none of this applies: nixos-rebuild needs the whole machine. The
        # listener itself asks systemd for that unit, for which it has to be root, but with no capability. It writes its
        # state, looks at /proc, /sys, /run and the system profile, and talks to NATS.
        CapabilityBoundingSet = "";
        DevicePolicy = "closed";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateTmp = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        # git and ssh have root's keys and settings there: where a run may fetch from, the listener may look.
        ProtectHome = "read-only";
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        RemoveIPC = true;
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_UNIX"
        ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [
          "@system-service"
          "~@privileged @resources"
        ];
        # A call that is not allowed is refused, which can be told, and not deadly.
        SystemCallErrorNumber = "EPERM";
        UMask = "0077";
      };
    };
  };
}
