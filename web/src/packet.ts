import type { FromClient, FromServer } from "./protocol";

export interface Packet<M> {
  message: M;
  payload: Uint8Array<ArrayBuffer>;
}

/** Four bytes with the length of the JSON, the JSON, the bytes (docs/serving.md). */
export function encodePacket(message: FromClient, payload: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(JSON.stringify(message));
  const packet = new Uint8Array(4 + json.length + payload.length);
  new DataView(packet.buffer).setUint32(0, json.length);
  packet.set(json, 4);
  packet.set(payload, 4 + json.length);
  return packet;
}

/** data: of a WebSocket's message. The server is trusted to speak the protocol it was built with. */
export function decodePacket(data: string | ArrayBuffer): Packet<FromServer> {
  if (typeof data === "string") return { message: JSON.parse(data), payload: new Uint8Array() };
  const end = 4 + new DataView(data).getUint32(0);
  const json = new TextDecoder().decode(new Uint8Array(data, 4, end - 4));
  return { message: JSON.parse(json), payload: new Uint8Array(data, end) };
}
