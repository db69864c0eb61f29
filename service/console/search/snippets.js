// One question as code that asks exactly it: for a shell, for Python with the client, for a JDK alone.

import { h } from "./dom.js";
import { copyButton } from "./parts.js";
import { keptKey, toJson } from "./service.js";
import { t } from "./words.js";

/** Return the code of a question, folded away. body, image: as snippetsOf takes them. */
export function codeOf(body, image, isOpen) {
  const snippets = snippetsOf(body, location.origin, { image, hasKey: Boolean(keptKey()) });
  return h("details", { open: isOpen }, h("summary", {}, t("snippets")),
    Object.entries({ curl: "curl", python: "Python", java: "Java" }).map(([name, words]) => h("div", { class: "snippet" },
      h("div", { class: "row" }, h("h3", {}, words), copyButton(() => snippets[name])),
      h("pre", { id: `code-${name}`, tabindex: "0" }, snippets[name]))),
    h("p", { class: "quiet" }, t("next_page_code")),
    keptKey() && h("p", { class: "quiet" }, t("snippets_key")));
}

/** Return { curl, python, java }. body: as bodyOf made it. image: its file name where the question is a picture,
 *  whose bytes the code reads itself. hasKey: whether routes are opened by a key. */
function snippetsOf(body, origin, { image = null, hasKey = false } = {}) {
  const asked = { ...body };
  if (image) delete asked.image;
  return {
    curl: curl(asked, origin, image, hasKey),
    python: python(asked, origin, image, hasKey),
    java: java(asked, origin, image, hasKey),
  };
}

const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function curl(body, origin, image, hasKey) {
  const key = hasKey ? ` \\\n  -H "Authorization: Bearer $SEARCH_API_KEY"` : "";
  const head = `curl -s ${origin}/v1/search -H 'Content-Type: application/json'${key}`;
  if (!image) return `${head} \\\n  -d ${shell(toJson(body))}`;
  const opened = `${toJson(body).slice(0, -1)},"image":"`;
  return `{ printf '%s' ${shell(opened)}
  base64 < ${shell(image)} | tr -d '\\n'
  printf '"}'; } |
${head} -d @-`;
}

const NAMES = { query: "text", top_k: "k" }; // the client's word where it is another
const UNNAMED = ["mode"]; // fields that the client has no word for

function python(body, origin, image, hasKey) {
  const more = Object.entries(body).filter(([name]) => UNNAMED.includes(name));
  const fields = Object.entries(body).filter(([name]) => !UNNAMED.includes(name)).map(([name, value]) => {
    const written = name === "vector" && typeof value === "string" ? `b64decode(${literal(value)})` : literal(value);
    return `        ${NAMES[name] ?? name}=${written},`;
  });
  if (more.length) fields.push(`        more=${literal(Object.fromEntries(more))},`);
  if (image) fields.push(`        image=Path(${literal(image)}).read_bytes(),`);
  const imports = [
    typeof body.vector === "string" && "from base64 import b64decode",
    hasKey && "from os import environ",
    image && "from pathlib import Path",
  ].filter(Boolean);
  const measures = [body.mode && body.mode !== "dense" ? "hit.score" : "hit.distance", body.include.includes("confidence") && "hit.confidence"].filter(Boolean);
  const names = hasKey ? "Keys, Query, VectorClient" : "Query, VectorClient";
  const keys = hasKey ? `, Keys(search=environ["SEARCH_API_KEY"])` : "";
  return `${imports.join("\n")}${imports.length ? "\n\n" : ""}from vector_client import ${names}

with VectorClient.to(${literal(origin)}${keys}) as client:
    found = client.search(Query(
${fields.join("\n")}
    ))
for hit in found.hits:
    print(hit.id, ${measures.join(", ")}, hit.metadata)`;
}

/** Return a value as Python writes it. */
function literal(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, each]) => `${literal(key)}: ${literal(each)}`).join(", ")}}`;
  }
  return toJson(value);
}

function java(body, origin, image, hasKey) {
  const opened = image ? `${toJson(body).slice(0, -1)},"image":"` : toJson(body);
  const file = image ? `Files.readAllBytes(Path.of(${toJson(image)}))` : "";
  const text = image
    ? `${toJson(opened)}\n            + Base64.getEncoder().encodeToString(${file}) + "\\"}"`
    : toJson(opened);
  const key = hasKey ? `\n            .header("Authorization", "Bearer " + System.getenv("SEARCH_API_KEY"))` : "";
  return `import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
${image ? "import java.nio.file.Files;\nimport java.nio.file.Path;\nimport java.util.Base64;\n" : ""}
class Search { // Search.java; java Search.java
    public static void main(String[] arguments) throws Exception {
        String body = ${text};
        HttpRequest request = HttpRequest.newBuilder(URI.create(${toJson(`${origin}/v1/search`)}))
            .header("Content-Type", "application/json")${key}
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}`;
}
