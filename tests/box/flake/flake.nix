# A fleet of one host. What NixOS would be is next to it in `nixpkgs`; what a system of it does to a machine, with real units
# and a real systemd, is in `switch-to-configuration` and `init`.
{
  outputs =
    { self }:
    let
      inherit (import ./nixpkgs { root = "/packages"; }) lib;
      inherit (builtins.fromJSON (builtins.readFile ./host.json)) system hostname;

      # What would be built of this project: the program under test, which lies in the machine under several names.
      release = number: {
        type = "derivation";
        outPath = "/program/${toString number}";
      };

      evaluated = lib.nixosSystem {
        inherit system;
        modules = [
          (import ./nixos/module.nix { ${system}.default = release 1; })
          ./host.nix
          (import ./configuration.nix { inherit lib release; })
        ];
      };
      inherit (evaluated) config;

      write = path: text: "cp ${builtins.toFile (baseNameOf path) text} $out/${path}\n";
      units = lib.mapAttrsToList (
        name: unit: write "etc/systemd/system/${name}" unit.text
      ) config.systemd.units;
      wants = lib.concatMap (
        name:
        map (target: ''
          mkdir -p $out/etc/systemd/system/${target}.wants
          ln -s ../${name}.service $out/etc/systemd/system/${target}.wants/
        '') config.systemd.services.${name}.wantedBy
      ) (builtins.attrNames config.systemd.services);

      toplevel = derivation {
        name = "nixos-system-${hostname}";
        inherit system;
        builder = "/bin/bash";
        PATH = "/usr/bin:/bin";
        args = [
          "-euc"
          ''
            ${config.box.build}
            mkdir -p $out/bin $out/etc/systemd/system $out/etc/systemd/user
            ${lib.concatStringsSep "" (units ++ wants)}
            ${write "check" config.box.check}
            ${write "boot-loader" config.box.bootLoader}
            ${write "activate" config.box.activation}
            ${lib.optionalString (config.box.userUnit != "") (
              write "etc/systemd/user/own.service" config.box.userUnit
            )}
            ${write "late" config.box.late}
            ${write "etc/hostname" hostname}
            install ${./init} $out/init
            install ${./switch-to-configuration} $out/bin/switch-to-configuration
            mkdir -p $out/sw/bin
            printf '#!/bin/bash\necho %s\n' ${self.rev} > $out/sw/bin/nixos-version
            chmod +x $out/sw/bin/nixos-version
            echo ${self.rev} > $out/nixos-version
            # Nix kills a builder that closes its outputs, as most programs do right before they end.
            exit 0
          ''
        ];
      };
    in
    {
      nixosConfigurations.${hostname}.config.system = {
        # What the real one does too: evaluating a system holds its assertions.
        build.toplevel = builtins.seq config.system.build.toplevel toplevel;
        configurationRevision = self.rev;
      };
    };
}
