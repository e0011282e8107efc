# The text of the listener's unit. `settings` are those of the module, and what they leave out is set well; `root` is the
# folder in which the unit finds its packages, each under its name.
{
  settings ? { },
  root ? "/nix/store",
}:
(import ./project.nix { inherit root; }).evaluation.unit settings
