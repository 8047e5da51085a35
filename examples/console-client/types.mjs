// Writes api.ts: the shapes this example uses, out of the gateway's OpenAPI document, with every shape they lead to.
//
//   node types.mjs            writes api.ts
//   node types.mjs --check    fails if api.ts is not what it would write
//
// Another client needs other shapes: name them in ROOTS. To have all of them, and the routes, there are generators such
// as openapi-typescript; the document is an ordinary OpenAPI 3.1 one.
import { readFileSync, writeFileSync } from "node:fs";

const ROOTS = ["Page_Provider", "Page_Connection", "BegunFlow", "FlowStatus"];
const PREFIX = "#/components/schemas/";

const document = JSON.parse(readFileSync(new URL("../../docs/openapi.json", import.meta.url), "utf8"));
const schemas = document.components.schemas;
const wanted = [...ROOTS];

function nameOf(ref) {
  const name = ref.slice(PREFIX.length);
  if (!wanted.includes(name)) wanted.push(name);
  return name;
}

function comment(text, indent) {
  return text ? `${indent}/** ${text.replaceAll("*/", "*\\/").replaceAll("\n", " ")} */\n` : "";
}

function union(types) {
  return [...new Set(types)].join(" | ");
}

// The document has the shape of a list's items in the list; it has a name of its own too.
const named = new Map(Object.entries(schemas).map(([name, schema]) => [JSON.stringify(schema), name]));

function typeOf(schema, indent) {
  if (schema.$ref) return nameOf(schema.$ref);
  const name = indent && schema.properties && named.get(JSON.stringify(schema));
  if (name) return nameOf(PREFIX + name);
  if (schema.enum) return union(schema.enum.map((value) => JSON.stringify(value)));
  if (schema.oneOf ?? schema.anyOf) return union((schema.oneOf ?? schema.anyOf).map((one) => typeOf(one, indent)));
  if (schema.allOf) return schema.allOf.map((one) => typeOf(one, indent)).join(" & ");
  if (Array.isArray(schema.type)) return union(schema.type.map((type) => typeOf({ ...schema, type }, indent)));
  switch (schema.type) {
    case "string":
    case "boolean":
    case "null":
      return schema.type;
    case "integer":
    case "number":
      return "number";
    case "array":
      return `${parenthesised(typeOf(schema.items ?? {}, indent))}[]`;
    case "object":
      return objectOf(schema, indent);
    default:
      return "unknown";
  }
}

function parenthesised(type) {
  return / [|&] /.test(type) ? `(${type})` : type;
}

function objectOf({ properties, required = [], additionalProperties }, indent) {
  if (!properties) {
    return `Record<string, ${additionalProperties ? typeOf(additionalProperties, indent) : "unknown"}>`;
  }
  const inner = `${indent}  `;
  const members = Object.entries(properties).map(([name, schema]) => {
    const mark = required.includes(name) ? "" : "?";
    return `${comment(schema.description, inner)}${inner}${name}${mark}: ${typeOf(schema, inner)};\n`;
  });
  return `{\n${members.join("")}${indent}}`;
}

let written = "// Written by types.mjs from docs/openapi.json; do not edit.\n";
for (let at = 0; at < wanted.length; at += 1) {
  const name = wanted[at];
  const schema = schemas[name];
  if (!schema) throw new Error(`docs/openapi.json has no ${name}`);
  written += `\n${comment(schema.description, "")}export type ${name} = ${typeOf(schema, "")};\n`;
}

const target = new URL("api.ts", import.meta.url);
if (process.argv.includes("--check")) {
  if (readFileSync(target, "utf8") !== written) {
    console.error("examples/console-client/api.ts is not up to date: run node examples/console-client/types.mjs");
    process.exit(1);
  }
} else {
  writeFileSync(target, written);
}
