/*
 * Evaluates what the admin's pages have in their attributes, for Alpine, without eval: so that their
 * policy need not allow scripts to be made from text. It knows the part of JavaScript's expressions
 * that these pages use, and of the page's own names those in GLOBALS.
 */
(() => {
  "use strict";

  const TOKEN =
    /\s*(?:(\d+(?:\.\d+)?)|([A-Za-z_$][\w$]*)|'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|(===|!==|=>|==|!=|<=|>=|&&|\|\||\?\?|\?\.|\+\+|--|[-+*/%<>=!?:.,;()[\]{}]))/y;
  const GLOBALS = {
    getCurrentTab: () => getCurrentTab,
    localStorage: () => localStorage,
    moveRecords: () => moveRecords,
    searchCommand: () => searchCommand,
    searchDropdown: () => searchDropdown,
    searchForm: () => searchForm,
    sortRecords: () => sortRecords,
    theme: () => theme,
    window: () => ({ location: { pathname: location.pathname, search: location.search, hash: location.hash } }),
  };
  const WORDS = { true: true, false: false, null: null, undefined: undefined };
  const LEFT_ALONE = new Set([
    "__proto__",
    "constructor",
    "contentWindow",
    "defaultView",
    "document",
    "innerHTML",
    "insertAdjacentHTML",
    "outerHTML",
    "ownerDocument",
    "prototype",
    "srcdoc",
    "view",
  ]);
  const BINARY = [
    { "??": null, "||": null },
    { "&&": null },
    { "===": (a, b) => a === b, "!==": (a, b) => a !== b, "==": (a, b) => a == b, "!=": (a, b) => a != b },
    { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b },
    { "+": (a, b) => a + b, "-": (a, b) => a - b },
    { "*": (a, b) => a * b, "/": (a, b) => a / b, "%": (a, b) => a % b },
  ];

  function tokens(text) {
    const found = [];
    TOKEN.lastIndex = 0;
    while (text.slice(TOKEN.lastIndex).trim()) {
      const at = TOKEN.lastIndex;
      const match = TOKEN.exec(text);
      if (!match) throw new SyntaxError(`Not understood: ${text.slice(at, at + 40)}`);
      const [, number, name, single, double, sign] = match;
      const quoted = single ?? double;
      if (number !== undefined) found.push({ value: Number(number) });
      else if (quoted !== undefined) found.push({ value: quoted.replace(/\\(.)/g, "$1") });
      else if (name !== undefined) found.push({ name });
      else found.push({ sign });
    }
    return found;
  }

  function key(value) {
    if (LEFT_ALONE.has(String(value))) throw new TypeError(`${value} is left alone here.`);
    return value;
  }

  function shared(name) {
    if (!Object.hasOwn(GLOBALS, name)) throw new ReferenceError(`${name} is not known here.`);
    return GLOBALS[name]();
  }

  /* Each node has `get(scope)`; what can be assigned to has `set(scope, value)` too, and what is
     called on something `self(scope)`. */
  class Parser {
    constructor(text) {
      this.found = tokens(text);
      this.at = 0;
    }

    is(sign, ahead = 0) {
      return this.found[this.at + ahead]?.sign === sign;
    }

    word(name) {
      return this.found[this.at]?.name === name;
    }

    takes(sign) {
      if (!this.is(sign)) return false;
      this.at += 1;
      return true;
    }

    needs(sign) {
      if (!this.takes(sign)) throw new SyntaxError(`${sign} is missing.`);
    }

    program() {
      const statements = [];
      while (this.at < this.found.length) {
        if (!this.takes(";")) statements.push(this.statement());
      }
      return run(statements);
    }

    statement() {
      if (!this.word("if")) return this.expression();
      this.at += 1;
      this.needs("(");
      const condition = this.expression();
      this.needs(")");
      const then = this.block();
      let otherwise = { get: () => undefined };
      if (this.word("else")) {
        this.at += 1;
        otherwise = this.word("if") ? this.statement() : this.block();
      }
      return { get: (scope) => (condition.get(scope) ? then : otherwise).get(scope) };
    }

    block() {
      if (!this.takes("{")) {
        const only = this.statement();
        this.takes(";");
        return only;
      }
      const statements = [];
      while (!this.takes("}")) {
        if (!this.takes(";")) statements.push(this.statement());
      }
      return run(statements);
    }

    expression() {
      if (this.found[this.at]?.name && this.is("=>", 1)) return this.arrow();
      const left = this.choice();
      if (!this.takes("=")) return left;
      if (!left.set) throw new SyntaxError("That cannot be assigned to.");
      const right = this.expression();
      return { get: (scope) => left.set(scope, right.get(scope)) };
    }

    arrow() {
      const { name } = this.found[this.at];
      this.at += 2;
      const body = this.expression();
      return { get: (scope) => (value) => body.get(inner(scope, name, value)) };
    }

    choice() {
      const condition = this.binary(0);
      if (!this.takes("?")) return condition;
      const then = this.expression();
      this.needs(":");
      const otherwise = this.expression();
      return { get: (scope) => (condition.get(scope) ? then : otherwise).get(scope) };
    }

    binary(level) {
      if (level === BINARY.length) return this.unary();
      let left = this.binary(level + 1);
      for (;;) {
        const sign = this.found[this.at]?.sign;
        if (!sign || !(sign in BINARY[level])) return left;
        this.at += 1;
        left = joined(sign, BINARY[level][sign], left, this.binary(level + 1));
      }
    }

    unary() {
      if (this.takes("!")) {
        const operand = this.unary();
        return { get: (scope) => !operand.get(scope) };
      }
      if (this.takes("-")) {
        const operand = this.unary();
        return { get: (scope) => -operand.get(scope) };
      }
      return this.chain();
    }

    chain() {
      let node = this.primary();
      for (;;) {
        if (this.takes(".")) {
          const { name } = this.found[this.at++] ?? {};
          if (!name) throw new SyntaxError("A name is missing.");
          node = member(node, { get: () => name });
        } else if (this.takes("[")) {
          const index = this.expression();
          this.needs("]");
          node = member(node, index);
        } else if (this.takes("(")) {
          node = call(node, this.list(")"));
        } else if (this.is("++") || this.is("--")) {
          node = stepped(node, this.found[this.at++].sign === "++" ? 1 : -1);
        } else {
          return node;
        }
      }
    }

    primary() {
      const token = this.found[this.at++];
      if (!token) throw new SyntaxError("It ends too early.");
      if ("value" in token) return { get: () => token.value };
      if (token.name) return token.name in WORDS ? { get: () => WORDS[token.name] } : named(token.name);
      if (token.sign === "(") {
        const inside = this.expression();
        this.needs(")");
        return inside;
      }
      if (token.sign === "[") {
        const items = this.list("]");
        return { get: (scope) => items.map((each) => each.get(scope)) };
      }
      if (token.sign === "{") return this.object();
      throw new SyntaxError(`${token.sign} is not expected.`);
    }

    list(end) {
      const items = [];
      while (!this.takes(end)) {
        items.push(this.expression());
        if (!this.is(end)) this.needs(",");
      }
      return items;
    }

    object() {
      const pairs = [];
      while (!this.takes("}")) {
        const token = this.found[this.at++] ?? {};
        const name = token.name ?? token.value;
        if (name === undefined) throw new SyntaxError("A name is missing.");
        this.needs(":");
        pairs.push([key(name), this.expression()]);
        if (!this.is("}")) this.needs(",");
      }
      return { get: (scope) => Object.fromEntries(pairs.map(([name, each]) => [name, each.get(scope)])) };
    }
  }

  function run(statements) {
    return {
      get: (scope) => statements.reduce((_, each) => each.get(scope), undefined),
    };
  }

  function joined(sign, apply, left, right) {
    if (sign === "&&") return { get: (scope) => left.get(scope) && right.get(scope) };
    if (sign === "||") return { get: (scope) => left.get(scope) || right.get(scope) };
    if (sign === "??") return { get: (scope) => left.get(scope) ?? right.get(scope) };
    return { get: (scope) => apply(left.get(scope), right.get(scope)) };
  }

  function named(name) {
    return {
      get: (scope) => (name in scope ? scope[key(name)] : shared(name)),
      set: (scope, value) => {
        scope[key(name)] = value; // Alpine's proxy adds what none of its objects has.
        return value;
      },
      self: (scope) => (name in scope ? scope : undefined),
    };
  }

  function member(owner, index) {
    return {
      get: (scope) => owner.get(scope)[key(index.get(scope))],
      set: (scope, value) => {
        owner.get(scope)[key(index.get(scope))] = value;
        return value;
      },
      self: (scope) => owner.get(scope),
    };
  }

  function call(node, given) {
    return {
      get: (scope) => {
        const self = node.self?.(scope);
        return node.get(scope).apply(self, given.map((each) => each.get(scope)));
      },
    };
  }

  function stepped(node, by) {
    return {
      get: (scope) => {
        const before = node.get(scope);
        node.set(scope, before + by);
        return before;
      },
    };
  }

  function inner(scope, name, value) {
    return new Proxy(scope, {
      has: (target, each) => each === name || each in target,
      get: (target, each) => (each === name ? value : target[each]),
    });
  }

  const parsed = new Map();

  function parse(text) {
    if (!parsed.has(text)) parsed.set(text, new Parser(text).program());
    return parsed.get(text);
  }

  /* As Alpine's own: what is a function is called, what is a promise is awaited. */
  function hand(receive, value, scope, params) {
    if (typeof value === "function") hand(receive, value.apply(scope, params), scope, params);
    else if (value instanceof Promise) value.then(receive);
    else receive(value);
  }

  /* A style as text would be an attribute, which the policy refuses; its properties are not. */
  function properties(text) {
    const pairs = text.split(";").map((each) => each.split(":").map((part) => part.trim()));
    return Object.fromEntries(pairs.filter(([name]) => name));
  }

  function evaluator(element, expression) {
    const stack = Alpine.closestDataStack(element);
    const isFunction = typeof expression === "function";
    const isStyle = !isFunction && element.getAttribute("x-bind:style") === expression;
    return (receive = () => {}, { scope = {}, params = [] } = {}) => {
      const names = Alpine.mergeProxies([scope, ...stack]);
      try {
        const value = isFunction ? expression.apply(names, params) : parse(expression).get(names);
        hand(receive, isStyle && typeof value === "string" ? properties(value) : value, names, params);
      } catch (error) {
        console.error(`${expression}: ${error}`, element); // One that fails does not stop the others.
      }
    };
  }

  window.expressions = { parse };
  document.addEventListener("alpine:init", () => Alpine.setEvaluator(evaluator));
  if (window.htmx) Object.assign(htmx.config, { allowEval: false, includeIndicatorStyles: false });
})();
