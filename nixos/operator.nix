# The machine of somebody who deploys; `packages` are this flake's, by system. It takes no option that nix-darwin lacks.
packages:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.programs.homelab-deploy;
  inherit (lib) mkOption types;

  # As the program looks an alias up.
  variable =
    name: "HOMELAB_DEPLOY_ALIAS_${lib.replaceStrings [ "-" ] [ "_" ] (lib.toUpper name)}";
in
{
  options.programs.homelab-deploy = {
    enable = lib.mkEnableOption "homelab-deploy on a machine to deploy from, with its completions and manual pages";

    package = mkOption {
      type = types.package;
      default = packages.${pkgs.stdenv.hostPlatform.system}.default;
      defaultText = lib.literalMD "the package of the homelab-deploy flake";
      description = "The homelab-deploy to install.";
    };

    natsUrl = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "tls://nats.example.com:4222";
      description = "The NATS server, or several with commas between them: `HOMELAB_DEPLOY_NATS_URL` for everybody on this machine.";
    };

    nkeyFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "$HOME/.config/homelab-deploy/ops.seed";
      description = "The file with the seed of the NKey: `HOMELAB_DEPLOY_NKEY_FILE`. `$HOME` is the home folder of the user who deploys.";
    };

    aliases = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example.prod-dns = "deploy.prod.role.dns";
      description = "Short names for subjects, as in `homelab-deploy deploy prod-dns`.";
    };

    plans = mkOption {
      type = types.attrsOf types.path;
      default = { };
      example = lib.literalExpression "{ sunday = ./plans/sunday.toml; }";
      description = "Plans by name, as in `homelab-deploy apply sunday`. They are in `/etc/homelab-deploy/plans`, and where there are any, plans are looked up by name nowhere else.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = map (name: {
      assertion = builtins.match "[[:alnum:]][[:alnum:]_-]*" name != null;
      message = "programs.homelab-deploy.aliases has \"${name}\", which cannot be part of the name of a variable: use letters, digits and hyphens.";
    }) (builtins.attrNames cfg.aliases);

    environment.systemPackages = [ cfg.package ];
    environment.variables =
      lib.optionalAttrs (cfg.natsUrl != null) { HOMELAB_DEPLOY_NATS_URL = cfg.natsUrl; }
      // lib.optionalAttrs (cfg.nkeyFile != null) { HOMELAB_DEPLOY_NKEY_FILE = cfg.nkeyFile; }
      // lib.optionalAttrs (cfg.plans != { }) { HOMELAB_DEPLOY_PLANS_DIR = "/etc/homelab-deploy/plans"; }
      // lib.mapAttrs' (name: subject: lib.nameValuePair (variable name) subject) cfg.aliases;
    environment.etc = lib.mapAttrs' (
      name: plan: lib.nameValuePair "homelab-deploy/plans/${name}.toml" { source = plan; }
    ) cfg.plans;
  };
}
