import type { Api } from "./api";
import { element } from "./dom";

const KEPT_AS = "x2sam-rt token"; // until the tab is closed

/** Asks for the server's token where it wants one. */
export class TokenForm {
  constructor(api: Api, onToken: () => void) {
    api.token = fromAddress() ?? sessionStorage.getItem(KEPT_AS) ?? "";
    element("token-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      api.token = element("token", HTMLInputElement).value;
      sessionStorage.setItem(KEPT_AS, api.token);
      onToken();
    });
  }

  static show(): void {
    element("token-form", HTMLFormElement).hidden = false;
    element("token", HTMLInputElement).focus();
  }

  static hide(): void {
    element("token-form", HTMLFormElement).hidden = true;
  }
}

/** The part behind # never leaves the browser; it is taken out of the address, which others may see. */
function fromAddress(): string | null {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return null;
  sessionStorage.setItem(KEPT_AS, token);
  history.replaceState(null, "", location.pathname);
  return token;
}
