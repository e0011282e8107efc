# What the listener takes for some of its flags. It refuses anything else when it starts, and would do so again and again on a
# host that then cannot be deployed any more; so the module says it before. tests/it/module.rs asks both about the same texts.
{ lib }:
let
  matches = pattern: text: builtins.match pattern text != null;

  # A name that subjects use for themselves is none.
  reserved = [
    "all"
    "role"
    "responses"
    "discover"
    "operators"
  ];

  repositories = [
    "git"
    "git+https"
    "git+http"
    "git+ssh"
    "git+file"
    "git+git"
    "hg+https"
    "hg+http"
    "hg+ssh"
  ];
  forges = [
    "github"
    "gitlab"
    "sourcehut"
  ];

  # The flags by which nixos-rebuild deploys something else than what was asked for, or somewhere else.
  choosing = [
    "--flake"
    "--no-flake"
    "--file"
    "-f"
    "--attr"
    "-A"
    "--store-path"
    "--target-host"
    "--profile-name"
    "-p"
    "--specialisation"
    "-c"
    "--rollback"
    "--upgrade"
    "--upgrade-all"
  ];

  placeholders = [
    "<hostname>"
    "<tier>"
    "<role>"
  ];

  # Addresses as numbers; the sixth version leaves out groups of zeros once.
  octet = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
  ipv4 = "${octet}([.]${octet}){3}";
  group = "[0-9a-fA-F]{1,4}";
  isIpv6 =
    ip:
    let
      groups = lib.filter (part: part != "") (lib.splitString ":" ip);
      length = builtins.length groups + (if lib.hasInfix "." ip then 1 else 0);
    in
    matches "(${group}:)+(${group}|${ipv4})" ip && length == 8
    || matches "((${group}:)*${group})?::((${group}:)*(${group}|${ipv4}))?" ip && length < 8;
  port = "0*(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5]?[0-9]{1,4})";
in
{
  inherit reserved placeholders;

  isToken =
    name:
    matches "[^.*>[:space:][:cntrl:]]+" name
    && builtins.stringLength name <= 253
    && !(lib.elem name reserved);

  # One server or several, which are all encrypted when one of them is, or when `withTls`.
  isNatsUrl =
    withTls: text:
    let
      host = "([^]/@?#%:[:space:][]+|\\[[0-9a-fA-F:.]+])";
      server = builtins.match "[[:space:]]*((nats|tls)://)?([^/@?#[:space:]]*@)?${host}(:${port})?/?[[:space:]]*";
      servers = map server (lib.splitString "," text);
      isTls = parts: builtins.elemAt parts 1 == "tls";
    in
    !(lib.elem null servers) && (withTls || lib.any isTls servers -> lib.all isTls servers);

  # A flake of a kind that has revisions, without one of its own.
  isFlakeUrl =
    url:
    let
      parts = builtins.match "([^:?#]+):([^?#]*)([?]([^#]*))?" url;
      scheme = builtins.elemAt parts 0;
      path = builtins.elemAt parts 1;
      query = toString (builtins.elemAt parts 3);
      segments = lib.filter (segment: segment != "") (lib.splitString "/" path);
    in
    matches "[[:graph:]]+" url
    && parts != null
    && !(matches "(.*&)?(ref|rev)([=&].*)?" query)
    && (
      lib.elem scheme repositories && matches "//.+" path && !(matches "//(-|[^/]*@-).*" path)
      || lib.elem scheme forges && builtins.length segments == 2
    );

  isFlakeAttr = matches "[[:alnum:]_][[:alnum:]_.+-]*";

  # The value of a short flag may stand right behind it.
  isRebuildFlag =
    word:
    !(lib.elem (lib.head (lib.splitString "=" word)) choosing)
    && !(lib.elem (builtins.substring 0 2 word) choosing);

  isSocketAddress =
    text:
    let
      ip = builtins.match "\\[(.*)]:${port}" text;
    in
    matches "${ipv4}:${port}" text || ip != null && isIpv6 (lib.head ip);

  # A subject without wildcards, whose placeholders are known.
  isSubjectTemplate =
    text:
    let
      filled = lib.replaceStrings placeholders (map (_: "x") placeholders) text;
    in
    builtins.stringLength filled <= 1024
    && matches "[^.*<>[:space:][:cntrl:]]+([.][^.*<>[:space:][:cntrl:]]+)*" filled;
}
