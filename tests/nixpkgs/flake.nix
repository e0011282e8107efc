{
  description = "In the place of nixpkgs: what this project's flake needs of it to be evaluated, without the network";

  outputs = _: import ./. { };
}
