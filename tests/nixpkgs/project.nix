# What becomes of this project with these packages: the outputs of its flake, and what its module makes of settings.
{
  root ? "/nix/store",
}:
let
  nixpkgs = import ./. { inherit root; };
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
    module = outputs.nixosModules.default;
  };

  # The names of what the flake has for a system, all of it evaluated down to what would be built or run.
  names =
    let
      evaluated = name: output: builtins.seq (output.drvPath or output.program) name;
      namesOf = kind: nixpkgs.lib.mapAttrsToList evaluated outputs.${kind}.x86_64-linux;
    in
    nixpkgs.lib.genAttrs [ "apps" "checks" "devShells" "packages" ] namesOf;
}
