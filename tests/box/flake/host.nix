# What does not change about a host.
hostname:
{ lib, ... }:
let
  host = builtins.fromJSON (builtins.readFile ./host.json);
  script = lib.mkOption {
    type = lib.types.str;
    default = "";
  };
in
{
  options.box = {
    # Run while the system is built.
    build = script;
    # Run before anything is changed; an exit that is not 0 is the last word.
    check = script;
    # Told of the system after that, where the action is one that is to boot.
    bootLoader = script;
    # Run when everything but the units is as it shall be.
    activation = script;
    # The unit `own.service` of each user who is logged in.
    userUnit = script;
    # Run after that; an exit that is not 0 is the last word.
    late = script;
  };

  config = {
    networking.hostName = hostname;
    services.homelab-deploy.listener = {
      enable = true;
      tier = "prod";
      natsUrl = lib.mkDefault host.natsUrl;
      nkeyFile = "/root/listener.seed";
      flakeUrl = lib.mkDefault host.flakeUrl;
      timeout = lib.mkDefault 60;
    };
  };
}
