# NixOS as far as a service is concerned: the options that this project sets, and the text of its units.
{ lib, packagesFor }:
{ system, modules }:
let
  inherit (lib) mkOption types;
  pkgs = packagesFor system;

  option = type: default: mkOption { inherit type default; };
  strings = option (types.listOf types.str) [ ];
  setting = types.either types.str (types.either types.bool types.int);
  section = option (types.attrsOf (types.either setting (types.listOf setting))) { };

  service = {
    description = option types.str "";
    wantedBy = strings;
    wants = strings;
    after = strings;
    stopIfChanged = option types.bool true;
    startLimitIntervalSec = mkOption { type = types.int; };
    environment = option (types.attrsOf (
      types.nullOr (
        types.oneOf [
          types.str
          types.path
          types.package
        ]
      )
    )) { };
    path = option (types.listOf types.package) [ ];
    unitConfig = section;
    serviceConfig = section;
  };

  shown =
    value: if builtins.isBool value then (if value then "true" else "false") else toString value;
  lines =
    name: settings:
    let
      values = value: if builtins.isList value then value else [ value ];
      rendered = lib.concatMap (key: map (value: "${key}=${shown value}\n") (values settings.${key})) (
        builtins.attrNames settings
      );
    in
    "[${name}]\n${lib.concatStringsSep "" rendered}";

  unitText =
    service:
    let
      named = name: names: lib.optionalAttrs (names != [ ]) { ${name} = lib.concatStringsSep " " names; };
      # What every service of NixOS finds behind the packages of its own.
      path = service.path ++ [
        pkgs.coreutils
        pkgs.findutils
        pkgs.gnugrep
        pkgs.gnused
        pkgs.systemd
      ];
      folders = folder: map (package: "${package}/${folder}") path;
      environment = lib.filterAttrs (_: value: value != null) (
        {
          PATH = lib.concatStringsSep ":" (folders "bin" ++ folders "sbin");
        }
        // service.environment
      );
      unit = {
        Description = service.description;
      }
      // named "After" service.after
      // named "Wants" service.wants
      // {
        StartLimitIntervalSec = service.startLimitIntervalSec;
      }
      // service.unitConfig;
    in
    lines "Unit" unit
    + "\n"
    + lines "Service" (
      {
        Environment = lib.mapAttrsToList (name: value: builtins.toJSON "${name}=${toString value}") environment;
      }
      // lib.optionalAttrs (!service.stopIfChanged) { X-StopIfChanged = false; }
      // service.serviceConfig
    );

  nixos =
    { config, ... }:
    {
      options = {
        assertions = option (types.listOf types.raw) [ ];
        networking.hostName = option types.str "nixos";
        networking.firewall.allowedTCPPorts = option (types.listOf types.port) [ ];
        environment.etc = option (types.attrsOf types.raw) { };
        environment.systemPackages = option (types.listOf types.package) [ ];
        environment.variables = option (types.attrsOf types.str) { };
        boot.isContainer = option types.bool false;
        networking.proxy.envVars = option (types.attrsOf types.str) { };
        nix.envVars = option (types.attrsOf types.str) { };
        nix.package = option types.package pkgs.nix;
        programs.ssh.package = option types.package pkgs.openssh;
        system.build = option (types.attrsOf types.raw) { };
        systemd.package = option types.package pkgs.systemd;
        systemd.services = option (types.attrsOf (types.submodule { options = service; })) { };
        systemd.units = option (types.attrsOf types.raw) { };
      };
      config = {
        systemd.units = builtins.listToAttrs (
          lib.mapAttrsToList (name: service: {
            name = "${name}.service";
            value.text = unitText service;
          }) config.systemd.services
        );
        system.build.nixos-rebuild = lib.mkDefault pkgs.nixos-rebuild;
        system.build.toplevel =
          let
            failed = map (a: "- ${a.message}") (lib.filter (a: !a.assertion) config.assertions);
          in
          if failed == [ ] then
            config.systemd.units
          else
            throw "\nFailed assertions:\n${lib.concatStringsSep "\n" failed}";
      };
    };
in
{
  inherit pkgs;
}
// lib.evalModules {
  modules = [ nixos ] ++ modules;
  specialArgs = { inherit pkgs; };
}
