# What the flake nixpkgs would be. Its packages lie in `root`; with `build` the one of this project can be built, by programs of
# the machine. `lib` may be that of nixpkgs itself.
{
  root ? "/nix/store",
  build ? null,
  lib ? import ./lib.nix,
}:
let
  packagesFor = import ./packages.nix {
    lib = whole;
    inherit root build;
  };
  whole = lib // {
    nixosSystem = import ./nixos.nix { inherit lib packagesFor; };
  };
in
{
  lib = whole;
  legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" "aarch64-darwin" ] packagesFor;
}
