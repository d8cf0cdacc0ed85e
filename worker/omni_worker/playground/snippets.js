// A request as people would send it themselves.

const origin = new URL(".", document.baseURI).href.replace(/\/$/, "");
const OPENAI_FIELDS = ["prompt", "model", "size", "n", "messages", "modalities"];

export function curl(path, body) {
  const text = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl ${origin}/${path} \\\n  -H 'Content-Type: application/json' \\\n  -d '${text}'`;
}

export function python(path, body) {
  const own = Object.entries(body).filter(([name]) => OPENAI_FIELDS.includes(name));
  const extra = Object.entries(body).filter(([name]) => !OPENAI_FIELDS.includes(name));
  const lines = own.map(([name, value]) => `    ${name}=${literal(value)},`);
  if (extra.length) lines.push(`    extra_body={${extra.map(([name, value]) => `${JSON.stringify(name)}: ${literal(value)}`).join(", ")}},`);
  const isText = path.includes("chat");
  return [
    ...(isText ? [] : ["import base64", ""]),
    "import openai",
    "",
    `client = openai.OpenAI(base_url=${JSON.stringify(`${origin}/v1`)}, api_key="none")`,
    `answer = client.${isText ? "chat.completions.create" : "images.generate"}(`,
    ...lines,
    ")",
    isText ? "print(answer.choices[0].message.content)"
      : 'open("picture.png", "wb").write(base64.b64decode(answer.data[0].b64_json))',
  ].join("\n");
}

function literal(value) {
  return JSON.stringify(value).replace(/\btrue\b/g, "True").replace(/\bfalse\b/g, "False").replace(/\bnull\b/g, "None");
}
