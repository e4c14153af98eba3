import { decodePacket, encodePacket, type Packet } from "./packet";
import type { Answered, Asked, Failed, FromClient, FromServer, Result, Saved } from "./protocol";

/** What a stream tells its page. */
export interface StreamEvents {
  opened(): void;
  result(result: Result): void;
  answered(answered: Answered): void;
  failed(failed: Failed): void;
  /** It went on from a snapshot, after this frame; null: from the beginning. */
  resumed(frame: number | null): void;
  /** The connection was lost, and is tried again in so many seconds. */
  retrying(seconds: number, why: string): void;
  /** For good. */
  ended(why: string): void;
}

interface Snapshot {
  frames: Saved["frames"];
  bytes: Uint8Array<ArrayBuffer>;
  /** Whether the last instruction came before it. */
  current: boolean;
}

const PART = 2 ** 20; // bytes of a snapshot in one message, which every server and proxy lets through
const RETRY_SECONDS = [0.5, 1, 2, 5, 5, 10, 10, 20];
const WORTH_ANOTHER_TRY = new Set(["busy", "draining", "not_ready", "worker_lost"]);

/** One stream, over as many connections as it takes: each after the first goes on from the last snapshot. */
export class StreamConnection {
  private socket: WebSocket | null = null;
  private snapshot: Snapshot | null = null;
  private asks = 0; // that this connection's session has heard
  private tries = 0;
  private lastWords = "The connection was lost.";
  private ended = false;
  private timer = 0;

  constructor(
    private instruction: Asked,
    private readonly token: string,
    private readonly events: StreamEvents,
  ) {
    this.connect();
  }

  get isOpen(): boolean {
    return this.socket?.readyState === WebSocket.OPEN && this.tries === 0;
  }

  ask(instruction: Asked, number: number, keepMemory: boolean): void {
    this.instruction = instruction;
    if (this.snapshot) this.snapshot.current = false;
    if (this.isOpen) this.sendAsk(number, keepMemory);
  }

  sendFrame(frame: number, format: "jpeg" | "png", image: Uint8Array<ArrayBuffer>): void {
    if (this.isOpen) this.send({ type: "frame", frame, format }, image);
  }

  save(): void {
    if (this.isOpen) this.send({ type: "save" });
  }

  close(): void {
    if (this.isOpen) this.send({ type: "close" });
    this.ended = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }

  private connect(): void {
    const url = new URL("v1/stream", document.baseURI);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url, ["x2sam-rt", ...(this.token ? [`x2sam-rt.token.${base64url(this.token)}`] : [])]);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.begin();
    socket.onmessage = ({ data }) => this.hear(decodePacket(data));
    socket.onclose = () => this.lost();
    this.socket = socket;
  }

  private begin(): void {
    this.asks = 0;
    if (this.snapshot === null) {
      this.send({ type: "open", instruction: this.instruction });
    } else {
      this.bring(this.snapshot);
    }
  }

  /** In parts, for it may be larger than a message. */
  private bring({ frames, bytes }: Snapshot): void {
    this.send({ type: "resume", frames, size: bytes.length }, bytes.subarray(0, PART));
    for (let start = PART; start < bytes.length; start += PART) {
      this.send({ type: "part" }, bytes.subarray(start, start + PART));
    }
  }

  private hear({ message, payload }: Packet<FromServer>): void {
    if (message.type === "opened") this.opened();
    else if (message.type === "result") this.events.result(message);
    else if (message.type === "answered") this.events.answered(message);
    else if (message.type === "saved") this.keep(message, payload.slice());
    else if (message.type === "resumed") this.events.resumed(message.frame);
    else if (message.type === "error") this.failed(message);
    else if (message.type === "draining") this.prepareToLeave();
  }

  private prepareToLeave(): void {
    this.lastWords = "The server is about to end.";
    this.save();
  }

  private opened(): void {
    const again = this.tries > 0;
    this.tries = 0;
    this.events.opened();
    if (!again) return;
    this.events.resumed(this.snapshot?.frames.at(-1)?.[0] ?? null);
    if (this.snapshot?.current === false) this.sendAsk(0, true);
  }

  private sendAsk(number: number, keepMemory: boolean): void {
    this.asks++;
    this.send({ type: "ask", instruction: this.instruction, number, keep_memory: keepMemory });
  }

  private keep({ frames, asks }: Saved, bytes: Uint8Array<ArrayBuffer>): void {
    this.snapshot = { frames, bytes, current: asks === this.asks };
  }

  private failed(failed: Failed): void {
    if (failed.fatal) this.lastWords = failed.message;
    if (failed.fatal && !WORTH_ANOTHER_TRY.has(failed.code)) this.end(failed.message);
    else if (!failed.fatal && failed.code !== "superseded") this.events.failed(failed);
  }

  private lost(): void {
    if (this.ended) return;
    const seconds = RETRY_SECONDS[this.tries++];
    if (seconds === undefined) {
      this.end(this.lastWords);
    } else {
      this.events.retrying(seconds, this.lastWords);
      this.timer = window.setTimeout(() => this.connect(), seconds * 1000);
    }
  }

  private end(why: string): void {
    this.ended = true;
    this.events.ended(why);
  }

  private send(message: FromClient, payload: Uint8Array<ArrayBuffer> = new Uint8Array()): void {
    this.socket?.send(encodePacket(message, payload));
  }
}

function base64url(text: string): string {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
