"use strict";

// Draws /openapi.json. It knows only the shapes that this service uses.

const byId = (id) => document.getElementById(id);

function element(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

const resolved = (api, schema) => (schema?.$ref
  ? api.components.schemas[schema.$ref.split("/").at(-1)]
  : schema ?? {});

function typeName(api, schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map((one) => typeName(api, one)).join(" or ");
  if (schema.type === "array") return `array of ${typeName(api, schema.items ?? {})}`;
  return schema.type ?? "any";
}

function example(api, schema) {
  const known = resolved(api, schema);
  if (known.examples) return known.examples[0];
  if (known.default !== undefined && known.default !== null) return known.default;
  if (known.anyOf) return example(api, known.anyOf[0]);
  if (known.type === "array") return [example(api, known.items)];
  if (known.type === "object" && known.properties) {
    return Object.fromEntries(
      Object.entries(known.properties)
        .filter(([name, property]) => known.required?.includes(name) || property.examples || property.default)
        .map(([name, property]) => [name, example(api, property)]),
    );
  }
  return { string: "…", integer: 1, number: 1, boolean: true, object: {} }[known.type] ?? null;
}

function table(head, rows) {
  const made = element("table", "");
  made.append(
    element("thead", "", element("tr", "", ...head.map((cell) => element("th", "", cell)))),
    element("tbody", "", ...rows.map((row) => element("tr", "", ...row.map((cell) => (
      element("td", "", ...(typeof cell === "string" ? prose(cell) : [cell]))))))),
  );
  return element("div", "scroll", made);
}

const code = (content) => element("code", "", content);
const prose = (content) => content.split("`").map((part, i) => (i % 2 ? code(part) : part));
const block = (content, label) => {
  const made = element("pre", "", content);
  made.setAttribute("aria-label", label);
  made.tabIndex = 0;
  return made;
};

function fields(api, schema) {
  const known = resolved(api, schema);
  return table(["field", "type", "meaning"], Object.entries(known.properties ?? {}).map(([name, property]) => [
    code(name + (known.required?.includes(name) ? "" : "?")),
    typeName(api, property),
    property.description ?? "",
  ]));
}

// An address that can be asked: its parameters filled in, as the examples have them.
function filled(api, path, op) {
  return path.replace(/\{(\w+)\}/g, (_, name) => {
    const known = (op.parameters ?? []).find((one) => one.in === "path" && one.name === name);
    return known?.schema.examples?.[0] ?? known?.examples?.[0] ?? { name: "storefront", version: "1" }[name] ?? "1";
  });
}

function curl(api, path, method, op, body) {
  const lines = [`curl ${method === (body ? "post" : "get") ? "" : `-X ${method.toUpperCase()} `}`
    + location.origin + filled(api, path, op)];
  if (op.security) lines.push('-H "authorization: Bearer $SHOPINTENT_KEY"');
  if (op.requestBody) lines.push("-H 'content-type: application/json'");
  if (body) lines.push(`-d '${JSON.stringify(example(api, body)).replaceAll("'", "'\\''")}'`);
  return block(lines.join(" \\\n  "), `Example of ${op.summary}`);
}

function operation(api, path, method, op) {
  const card = element("section", "card operation");
  card.id = op.operationId;
  card.append(
    element("h3", "", element("span", "method", method.toUpperCase()), code(path)),
    element("p", "note", ...prose(op.description ?? op.summary)),
  );
  const schema = op.requestBody?.content["application/json"]?.schema;
  const body = schema && Object.keys(schema).length ? schema : undefined;
  card.append(element("h4", "", "Request"), ...(body ? [fields(api, body)] : []),
    curl(api, path, method, op, body));
  const headers = (op.parameters ?? []).filter((one) => one.in === "header");
  if (headers.length) {
    card.append(element("h4", "", "Headers"), table(["header", "meaning"],
      headers.map((one) => [code(one.name), one.description ?? ""])));
  }
  const answer = op.responses["200"]?.content?.["application/json"]?.schema;
  if (answer) {
    card.append(element("h4", "", "Answer"), fields(api, answer),
      block(JSON.stringify(example(api, answer), null, 2), "Answer"));
  }
  const failures = Object.entries(op.responses).filter(([status]) => status >= 400);
  if (failures.length) {
    const folded = element("details", "", element("summary", "", "Failures"));
    folded.append(table(["status", "meaning"],
      failures.map(([status, response]) => [status, response.description])));
    card.append(folded);
  }
  return card;
}

async function draw() {
  const api = await (await fetch("/openapi.json")).json();
  byId("description").textContent = api.info.description;
  const byTag = {};
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, op] of Object.entries(methods)) {
      (byTag[op.tags[0]] ??= []).push([path, method, op]);
    }
  }
  for (const [tag, operations] of Object.entries(byTag)) {
    byId("operations").append(element("h2", "tag", tag[0].toUpperCase() + tag.slice(1)));
    for (const [path, method, op] of operations) {
      byId("operations").append(operation(api, path, method, op));
      const link = element("a", "", path);
      link.href = `#${op.operationId}`;
      byId("index").append(element("li", "", element("span", "method", method.toUpperCase()), link));
    }
  }
  byId("kinds").append(...api["x-problems"].map((kind) => {
    const row = element("tr", "", element("td", "", code(kind.slug)),
      element("td", "", String(kind.status)), element("td", "", kind.title));
    row.id = kind.slug;
    return row;
  }));
  byId("problems").hidden = false;
  byId("status").textContent = `Version ${api.info.version}`;
  if (location.hash) byId(location.hash.slice(1))?.scrollIntoView();
}

draw().catch(() => { byId("status").textContent = "The service does not answer."; });
