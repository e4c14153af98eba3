import type { Asked, ImageResult, Info, Problem, ShownPass, VideoState } from "./protocol";

/** What the server, or the way to it, said instead of an answer. code: as in docs/serving.md, or "unreachable". */
export class ServerProblem extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

/** The server's requests; streams are StreamConnection's. */
export class Api {
  token = "";

  info(): Promise<Info> {
    return this.json("v1/info");
  }

  segmentImage(image: Blob, instruction: Asked): Promise<ImageResult> {
    return this.json("v1/image", { method: "POST", body: form({ image }, instruction) });
  }

  uploadVideo(video: Blob, instruction: Asked): Promise<VideoState> {
    return this.json("v1/videos", { method: "POST", body: form({ video }, instruction) });
  }

  videoState(id: string): Promise<VideoState> {
    return this.json(`v1/videos/${id}`);
  }

  cancelVideo(id: string): Promise<VideoState> {
    return this.json(`v1/videos/${id}`, { method: "DELETE" });
  }

  async videoResult(id: string): Promise<Blob> {
    return (await this.request(`v1/videos/${id}/result`)).blob();
  }

  beginShown(): Promise<ShownPass> {
    return this.json("v1/shown", { method: "POST" });
  }

  /** The next frame of the source that the server was begun with; null at its end. */
  async nextShown(id: string): Promise<Blob | null> {
    const response = await this.request(`v1/shown/${id}`);
    return response.status === 204 ? null : response.blob();
  }

  /** Resident bytes of the server and its workers. */
  async memoryBytes(): Promise<number> {
    const text = await (await this.request("metrics")).text();
    const line = text.split("\n").find((one) => one.startsWith("x2sam_memory_bytes "));
    return Number(line?.split(" ")[1]);
  }

  private async json<T>(path: string, init: RequestInit = {}): Promise<T> {
    return (await this.request(path, init)).json();
  }

  private async request(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    const response = await fetch(path, { ...init, headers }).catch(() => {
      throw new ServerProblem("unreachable", "The server cannot be reached.");
    });
    if (!response.ok) throw await problemOf(response);
    return response;
  }
}

function form(file: Record<string, Blob>, instruction: Asked): FormData {
  const data = new FormData();
  for (const [name, blob] of Object.entries(file)) data.append(name, blob, name);
  data.append("instruction", JSON.stringify(instruction));
  return data;
}

async function problemOf(response: Response): Promise<ServerProblem> {
  const problem: Partial<Problem> = await response.json().catch(() => ({}));
  return new ServerProblem(problem.code ?? "unreachable", problem.message ?? `The server answered ${response.status}.`);
}
