import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

const ROOTS = ["index.html", "package-lock.json", "vite.config.ts", "src"];

/** The hash of every source, which tests/serve/test_page_files.py compares with the sources that are there. */
function builtFrom(): Plugin {
  return {
    name: "built-from",
    generateBundle() {
      const hashes = Object.fromEntries(
        ROOTS.flatMap(filesOf).map((file) => [file, createHash("sha256").update(readFileSync(file)).digest("hex")]),
      );
      this.emitFile({ type: "asset", fileName: "built_from.json", source: `${JSON.stringify(hashes, null, 1)}\n` });
    },
  };
}

function filesOf(root: string): string[] {
  if (root.includes(".")) return [root];
  return readdirSync(root)
    .sort()
    .map((name) => join(root, name));
}

export default defineConfig({
  base: "./",
  build: { outDir: "../x2sam_rt/serve/web", emptyOutDir: true, assetsInlineLimit: 0, modulePreload: false },
  plugins: [builtFrom()],
});
