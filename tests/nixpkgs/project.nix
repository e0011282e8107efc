# What becomes of this project with these packages: the outputs of its flake, and what its module makes of settings.
{
  root ? "/nix/store",
  lib ? import ./lib.nix,
}:
let
  nixpkgs = import ./. { inherit root lib; };
in
rec {
  outputs = (import ../../flake.nix).outputs {
    self = outputs // {
      outPath = toString ../..;
    };
    inherit nixpkgs;
  };
  evaluation = import ../../nixos/evaluation.nix {
    inherit (nixpkgs) lib;
    inherit (nixpkgs.lib) nixosSystem;
    system = "x86_64-linux";
    modules = outputs.nixosModules;
  };

  # The names of what the flake has for a system, all of it evaluated down to what would be built or run.
  names =
    let
      evaluated = name: output: builtins.seq (output.drvPath or output.program) name;
      namesOf = system: kind: nixpkgs.lib.mapAttrsToList evaluated (outputs.${kind}.${system} or { });
      kinds = [
        "apps"
        "checks"
        "devShells"
        "packages"
      ];
    in
    nixpkgs.lib.mapAttrs (system: _: nixpkgs.lib.genAttrs kinds (namesOf system)) outputs.packages;
}
