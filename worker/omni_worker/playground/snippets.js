// A request as people would send it themselves.

import { hasKey } from "./api.js";

const origin = new URL(".", document.baseURI).href.replace(/\/$/, "");
const OPENAI_FIELDS = ["prompt", "model", "size", "n", "seconds", "messages", "modalities"];
const PICTURE = {
  pipe: " \\\n  | jq -r '.data[0].b64_json' | base64 -d > answer.png",
  imports: ["base64"],
  rest: ['open("answer.png", "wb").write(base64.b64decode(answer.data[0].b64_json))'],
};
const KINDS = {
  "v1/images/generations": { ...PICTURE, call: "images.generate" },
  "v1/images/edits": { ...PICTURE, call: "images.edit" },
  "v1/videos": {
    pipe: `\n# then, with its id, until it is completed:\ncurl ${origin}/v1/videos/ID\ncurl ${origin}/v1/videos/ID/content -o video.mp4`,
    imports: ["time"],
    call: "videos.create",
    rest: [
      'while answer.status in ("queued", "in_progress"):',
      "    time.sleep(1)",
      "    answer = client.videos.retrieve(answer.id)",
      'client.videos.download_content(answer.id).write_to_file("video.mp4")',
    ],
  },
  "v1/audio/speech": {
    fields: ["model", "input", "response_format"],
    pipe: ({ response_format: format }) => ` \\\n  -o sound.${format}`,
    imports: [],
    call: "audio.speech.create",
    required: ['    voice="alloy",  # the client wants one; the model has none'],
    rest: ({ response_format: format }) => [`answer.write_to_file("sound.${format}")`],
  },
  "v1/chat/completions": {
    pipe: " \\\n  | jq -r '.choices[0].message.content'",
    imports: [],
    call: "chat.completions.create",
    rest: ["print(answer.choices[0].message.content)"],
  },
};

export function curl({ path, body, files }) {
  const key = hasKey() ? ['-H "Authorization: Bearer $OMNI_API_KEY"'] : [];
  const sent = files.length
    ? [...Object.entries(body).map(([name, value]) => `--form-string ${quoted(`${name}=${value}`)}`), ...files.map(([name, file]) => `-F ${quoted(`${name}=@${JSON.stringify(file.name)}`)}`)]
    : ["-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(body, null, 2))}`];
  return [`curl ${origin}/${path}`, ...key, ...sent].join(" \\\n  ") + of(KINDS[path].pipe, body);
}

export function python({ path, body, files }) {
  const { imports, call, rest, fields = OPENAI_FIELDS, required = [] } = KINDS[path];
  const own = Object.entries(body).filter(([name]) => fields.includes(name));
  const extra = Object.entries(body).filter(([name]) => !fields.includes(name));
  const opened = Map.groupBy(files.map(([name, file]) => [name, `open(${JSON.stringify(file.name)}, "rb")`]), ([name]) => name);
  const lines = [
    ...[...opened].map(([name, all]) => `    ${name}=${all.length > 1 ? `[${all.map(([, one]) => one).join(", ")}]` : all[0][1]},`),
    ...own.map(([name, value]) => `    ${name}=${literal(value)},`),
    ...required,
  ];
  if (extra.length) lines.push(`    extra_body=${literal(Object.fromEntries(extra))},`);
  const all = [...imports, ...(hasKey() ? ["os"] : [])].sort().map((name) => `import ${name}`);
  return [
    ...all, ...(all.length ? [""] : []),
    "import openai",
    "",
    `client = openai.OpenAI(base_url=${JSON.stringify(`${origin}/v1`)}, api_key=${hasKey() ? 'os.environ["OMNI_API_KEY"]' : '"none"'})`,
    `answer = client.${call}(`,
    ...lines,
    ")",
    ...of(rest, body),
  ].join("\n");
}

// A part of a snippet, which may depend on the body.
function of(part, body) { return typeof part === "function" ? part(body) : part; }

// A word as a shell takes it.
function quoted(text) { return `'${text.replaceAll("'", "'\\''")}'`; }

// A value as Python writes it.
function literal(value) {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one)}`).join(", ")}}`;
}
