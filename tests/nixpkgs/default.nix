# What the flake nixpkgs would be; its packages lie in `root`.
{
  root ? "/nix/store",
}:
let
  packagesFor = import ./packages.nix { inherit lib root; };
  lib = import ./lib.nix // {
    nixosSystem = import ./nixos.nix { inherit packagesFor; };
  };
in
{
  inherit lib;
  legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] packagesFor;
}
