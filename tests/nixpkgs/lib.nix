# The part of nixpkgs' lib that this project uses, its module system among it: options with types, conditions,
# priorities and order. A definition that no option takes, or of the wrong type, is an error as it is there.
let
  inherit (builtins)
    all
    any
    attrNames
    concatLists
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    genList
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isPath
    isString
    length
    listToAttrs
    mapAttrs
    replaceStrings
    sort
    split
    stringLength
    substring
    toJSON
    ;

  optional = condition: value: if condition then [ value ] else [ ];
  unique = foldl' (known: value: if elem value known then known else known ++ [ value ]) [ ];
  kind = value: if isAttrs value then value._type or "" else "";
  written = path: concatStringsSep "." path;

  # --- What stands around a value

  wrapper = _type: setting: content: { inherit _type setting content; };
  mkIf = wrapper "if";
  mkOverride = wrapper "override";
  mkOrder = wrapper "order";

  # Takes off what stands around a value: as many of them as there are, with what was said of each.
  unwrap =
    marks: value:
    let
      inner = mark: unwrap (marks // mark) value.content;
    in
    {
      "if" = if value.setting then inner { } else [ ];
      override = inner { priority = value.setting; };
      order = inner { order = value.setting; };
    }
    .${kind value} or [ (marks // { inherit value; }) ];

  # Moves what stands around a set to its members, without looking at it: a condition may depend on other members.
  spread =
    value:
    if kind value == "" then
      value
    else
      mapAttrs (_: wrapper value._type value.setting) (spread value.content);

  # --- Types: what they take, and what several definitions come down to

  # Described in the words of nixpkgs.
  type = description: check: merge: { inherit description check merge; };
  simple = name: check: type name check one;
  one =
    path: values:
    if all (value: value == head values) values then
      head values
    else
      throw "The option `${written path}' has conflicting definition values.";

  isDerivation = value: isAttrs value && value.type or "" == "derivation";
  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;

  composed =
    inner:
    if builtins.match ".* or .*" inner.description == null then
      inner.description
    else
      "(${inner.description})";

  types = rec {
    bool = simple "boolean" isBool;
    str = simple "string" isString;
    package = simple "package" isDerivation;
    path = simple "absolute path" (
      value: isPath value || isDerivation value || isString value && hasPrefix "/" value
    );
    raw = simple "raw value" (_: true);
    int = simple "signed integer" isInt;
    ints.positive = simple "positive integer, meaning >0" (value: isInt value && value > 0);
    port = simple "16 bit unsigned integer" (value: isInt value && value >= 0 && value < 65536);
    enum =
      values: simple "one of ${concatStringsSep ", " (map toJSON values)}" (value: elem value values);
    strMatching =
      pattern:
      simple "string matching the pattern ${pattern}" (
        value: isString value && builtins.match pattern value != null
      );
    either = a: b: simple "${a.description} or ${b.description}" (value: a.check value || b.check value);
    oneOf = choices: foldl' either (head choices) (builtins.tail choices);
    nullOr =
      inner:
      type "null or ${inner.description}" (value: value == null || inner.check value) (
        path: values: if elem null values then one path values else inner.merge path values
      );
    listOf =
      inner:
      type "list of ${composed inner}" isList (
        path: values: map (value: mergeDefinitions inner path [ value ]) (concatLists values)
      );
    attrsOf =
      inner:
      type "attribute set of ${composed inner}" isAttrs (
        path: values:
        let
          sets = map spread values;
          names = unique (concatMap attrNames sets);
          member = name: concatMap (set: optional (set ? ${name}) set.${name}) sets;
          present = filter (name: concatMap (unwrap { }) (member name) != [ ]) names;
        in
        genAttrs present (name: mergeDefinitions inner (path ++ [ name ]) (member name))
      );
    submodule = module: type "submodule" isAttrs (path: values: assemble path [ module.options ] values);
  };

  mergeDefinitions =
    inner: path: definitions:
    let
      found = concatMap (unwrap {
        priority = 100;
        order = 1000;
      }) definitions;
      strongest = foldl' (least: d: if d.priority < least then d.priority else least) 9999 found;
      ordered = sort (a: b: a.order < b.order) (filter (d: d.priority == strongest) found);
      checked =
        { value, ... }:
        if inner.check value then
          value
        else
          throw "A definition for option `${written path}' is not of type `${inner.description}'. Definition values: ${toJSON value}";
    in
    if found == [ ] then
      throw "The option `${written path}' was accessed but has no value defined. Try setting the option."
    else
      inner.merge path (map checked ordered);

  # --- Modules

  # What the options at a path come to, by all declarations and definitions of them.
  assemble =
    path: declarations: definitions:
    let
      sets = map spread definitions;
      members = name: concatMap (set: optional (set ? ${name}) set.${name});
      names = unique (concatMap attrNames declarations);
      unknown = filter (name: !(elem name names)) (concatMap attrNames sets);
      value =
        name:
        let
          declared = members name declarations;
          option = head declared;
          here = path ++ [ name ];
          default = optional (option ? default) (mkOverride 1500 option.default);
        in
        if kind option == "option" then
          mergeDefinitions option.type here (members name sets ++ default)
        else
          assemble here declared (members name sets);
    in
    if unknown == [ ] then
      genAttrs names value
    else
      throw "The option `${written (path ++ [ (head unknown) ])}' does not exist.";

  evalModules =
    { modules, specialArgs }:
    let
      arguments = specialArgs // {
        inherit config lib;
      };
      load =
        source:
        let
          content = if isPath source then import source else source;
          module = if isFunction content then content arguments else content;
          config =
            if module ? options || module ? config then
              module.config or { }
            else
              removeAttrs module [ "imports" ];
        in
        [
          {
            options = module.options or { };
            inherit config;
          }
        ]
        ++ concatMap load (module.imports or [ ]);
      loaded = concatMap load modules;
      config = assemble [ ] (map (m: m.options) loaded) (map (m: m.config) loaded);
    in
    {
      inherit config;
    };

  genAttrs =
    names: value:
    listToAttrs (
      map (name: {
        inherit name;
        value = value name;
      }) names
    );

  lib = {
    inherit
      all
      any
      concatMap
      concatStringsSep
      elem
      evalModules
      filter
      genAttrs
      hasPrefix
      head
      length
      mapAttrs
      mkIf
      optional
      replaceStrings
      types
      unique
      ;
    last = list: builtins.elemAt list (length list - 1);
    toIntBase10 = builtins.fromJSON;
    toUpper =
      replaceStrings
        [ "a" "b" "c" "d" "e" "f" "g" "h" "i" "j" "k" "l" "m" "n" "o" "p" "q" "r" "s" "t" "u" "v" "w" "x" "y" "z" ]
        [ "A" "B" "C" "D" "E" "F" "G" "H" "I" "J" "K" "L" "M" "N" "O" "P" "Q" "R" "S" "T" "U" "V" "W" "X" "Y" "Z" ];
    concatStrings = concatStringsSep "";
    nameValuePair = name: value: { inherit name value; };
    mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (attrNames set));
    optionals = condition: values: if condition then values else [ ];
    optionalAttrs = condition: set: if condition then set else { };
    optionalString = condition: text: if condition then text else "";
    filterAttrs =
      keep: set: genAttrs (filter (name: keep name set.${name}) (attrNames set)) (name: set.${name});
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    hasInfix =
      part: text:
      let
        last = stringLength text - stringLength part;
      in
      last >= 0 && any (at: substring at (stringLength part) text == part) (genList (at: at) (last + 1));
    hasSuffix =
      end: text:
      stringLength text >= stringLength end
      && substring (stringLength text - stringLength end) (-1) text == end;
    splitString = separator: text: filter isString (split separator text);
    assertMsg = condition: message: condition || throw message;

    mkForce = mkOverride 50;
    mkDefault = mkOverride 1000;
    mkBefore = mkOrder 500;
    mkOption = option: option // { _type = "option"; };
    mkEnableOption =
      what:
      lib.mkOption {
        type = types.bool;
        default = false;
        description = "Whether to enable ${what}.";
      };
    literalExpression = text: { inherit text; };
    literalMD = text: { inherit text; };

    importTOML = file: builtins.fromTOML (builtins.readFile file);
    # The parts of a folder that a package is built of. Only what builds looks at them.
    fileset = {
      unions = parts: parts;
      toSource =
        { root, fileset }:
        builtins.path {
          name = "source";
          path = root;
          filter =
            path: _:
            any (
              part: path == toString part || hasPrefix "${toString part}/" path || hasPrefix "${path}/" (toString part)
            ) fileset;
        };
    };
    licenses.mit.spdxId = "MIT";
    platforms.linux = [
      "x86_64-linux"
      "aarch64-linux"
    ];
    platforms.darwin = [ "aarch64-darwin" ];
  };
in
lib
