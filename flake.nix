{
  description = "Deploys NixOS fleets over NATS, one at a time or in waves that halt when one fails";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      forAllSystems =
        f: lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: f nixpkgs.legacyPackages.${system});
      evaluation =
        system:
        import ./nixos/evaluation.nix {
          inherit lib system;
          inherit (lib) nixosSystem;
          module = self.nixosModules.default;
        };
    in
    {
      packages = forAllSystems (pkgs: {
        default = pkgs.callPackage ./nixos/package.nix { };
        demo = pkgs.callPackage ./nixos/package.nix { withDemo = true; };
      });

      apps = forAllSystems (
        pkgs:
        let
          packages = self.packages.${pkgs.stdenv.hostPlatform.system};
        in
        {
          default = {
            type = "app";
            program = "${packages.default}/bin/homelab-deploy";
          };
          demo = {
            type = "app";
            program = "${packages.demo}/bin/homelab-deploy-demo";
          };
        }
      );

      overlays.default = final: _prev: {
        homelab-deploy = final.callPackage ./nixos/package.nix { };
      };

      nixosModules.default = import ./nixos/module.nix self.packages;

      devShells = forAllSystems (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.cargo
            pkgs.clippy
            pkgs.deadnix
            pkgs.git
            pkgs.nats-server
            pkgs.natscli
            pkgs.nixfmt-rfc-style
            pkgs.rust-analyzer
            pkgs.rustc
            pkgs.rustfmt
          ];
        };
      });

      checks = forAllSystems (pkgs: {
        # Its build runs the tests, the integration tests among them.
        package = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
        clippy = pkgs.callPackage ./nixos/package.nix { lintOnly = true; };
        fmt =
          pkgs.runCommand "homelab-deploy-fmt"
            {
              nativeBuildInputs = [
                pkgs.cargo
                pkgs.rustfmt
              ];
            }
            ''
              cd ${self}
              cargo fmt --check
              touch $out
            '';
        module =
          assert (evaluation pkgs.stdenv.hostPlatform.system).holds;
          pkgs.runCommand "homelab-deploy-module" { } "touch $out";
        rollout = pkgs.testers.runNixOSTest (
          import ./nixos/test.nix {
            inherit (self) packages;
            module = self.nixosModules.default;
          }
        );
      });
    };
}
