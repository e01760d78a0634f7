// OpenAI's Node client, asked one thing: reads {baseURL, apiKey, how, body} from its argument, prints {value} or {error}.
import OpenAI from "openai";

const { baseURL, apiKey, how, body } = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

const ways = {
  plain: () => client.chat.completions.create(body),
  stream: async () => {
    const chunks = [];
    for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) chunks.push(chunk);
    return chunks;
  },
  // what came before a stream broke
  broken: async () => {
    const texts = [];
    try {
      for await (const chunk of await client.chat.completions.create({ ...body, stream: true }))
        texts.push(chunk.choices[0]?.delta.content ?? "");
    } catch (error) {
      return { text: texts.join(""), error: error.constructor.name, message: error.message };
    }
    return { text: texts.join("") };
  },
  helper: () => client.chat.completions.stream(body).finalChatCompletion(),
  headers: async () => {
    const { response } = await client.chat.completions.create(body).withResponse();
    return Object.fromEntries(response.headers);
  },
  models: async () => {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    return names;
  },
  leave: async () => {
    for await (const _ of await client.chat.completions.create({ ...body, stream: true })) break;
    return "left";
  },
};

try {
  console.log(JSON.stringify({ value: await ways[how]() }));
} catch (error) {
  const { status, code, type, param, requestID } = error;
  console.log(JSON.stringify({ error: { name: error.constructor.name, status, code, type, param, requestID } }));
}
