{
  description = "Deploys NixOS fleets over NATS, one at a time or in waves that halt when one fails";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      linux = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forSystems = systems: f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      forHosts = forSystems linux;
      # From here one can deploy, too.
      forOperators = forSystems (linux ++ [ "aarch64-darwin" ]);
      packagesOf = pkgs: self.packages.${pkgs.stdenv.hostPlatform.system};
      app = program: description: {
        type = "app";
        inherit program;
        meta = { inherit description; };
      };
      evaluation =
        system:
        import ./nixos/evaluation.nix {
          inherit lib system;
          inherit (lib) nixosSystem;
          modules = self.nixosModules;
        };
    in
    {
      packages = forOperators (
        pkgs:
        {
          default = pkgs.callPackage ./nixos/package.nix { };
        }
        // lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux {
          demo = pkgs.callPackage ./nixos/package.nix { withDemo = true; };
        }
      );

      apps = forOperators (
        pkgs:
        {
          default = app "${(packagesOf pkgs).default}/bin/homelab-deploy" "Deploys NixOS fleets over NATS";
        }
        // lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux {
          demo = app "${(packagesOf pkgs).demo}/bin/homelab-deploy-demo" "A server, six listeners and a rollout, to look at";
        }
      );

      overlays.default = final: _prev: {
        homelab-deploy = final.callPackage ./nixos/package.nix { };
      };

      nixosModules = {
        default = import ./nixos/module.nix self.packages;
        operator = import ./nixos/operator.nix self.packages;
      };

      lib.natsAuthorization = import ./nixos/authorization.nix { inherit lib; };

      formatter = forOperators (pkgs: pkgs.nixfmt-tree);

      devShells = forOperators (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.cargo
            pkgs.clippy
            pkgs.deadnix
            pkgs.git
            pkgs.nats-server
            pkgs.natscli
            pkgs.nixfmt
            pkgs.rust-analyzer
            pkgs.rustc
            pkgs.rustfmt
          ];
        };
      });

      checks = forHosts (pkgs: {
        # Its build runs the tests, the integration tests among them.
        package = pkgs.callPackage ./nixos/package.nix { purpose = "tests"; };
        clippy = pkgs.callPackage ./nixos/package.nix { purpose = "lint"; };
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
