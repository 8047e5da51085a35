// A client of the gateway's API, as much of it as a console needs to list connections and to make one.
import type { BegunFlow, Connection, FlowStatus, Page_Connection, Page_Provider, Provider } from "./api.js";

/** A refusal: the gateway's problem document. `code` is stable, `docs/errors.md` explains it. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    title: string,
    readonly requestId: string | null,
  ) {
    super(title);
    this.name = "Refused";
  }
}

/** How connecting ended. */
export type Outcome =
  | { readonly kind: "connected"; readonly connectionId: string; readonly reactivated: boolean }
  /** The person asked, and an owner of the account has to approve at the provider. */
  | { readonly kind: "waiting" }
  /** `error` is a code of docs/connecting.md: `access_denied`, `installation_already_bound`, … */
  | { readonly kind: "failed"; readonly error: string }
  /** Ten minutes are over, or the state was never one. */
  | { readonly kind: "expired" };

export interface Settings {
  /** The gateway's `server.public_url`. */
  readonly gateway: string;
  readonly apiKey: string;
  /** Whom a service key acts for; a key of an org needs none. */
  readonly org?: string;
}

const POLL_EVERY_MS = 2000;

export class Signalbox {
  readonly #base: string;
  readonly #headers: Readonly<Record<string, string>>;

  constructor({ gateway, apiKey, org }: Settings) {
    this.#base = gateway.replace(/\/+$/, "");
    this.#headers = { "X-API-Key": apiKey, ...(org ? { "X-Org-Id": org } : {}) };
  }

  /** Every provider that is enabled. */
  async providers(): Promise<Provider[]> {
    const page = await this.#get<Page_Provider>("/providers");
    return page.items.filter((provider) => provider.enabled);
  }

  /** Every connection of the org, page by page. */
  async *connections(): AsyncGenerator<Connection> {
    let cursor: string | null = null;
    do {
      const page: Page_Connection = await this.#get<Page_Connection>("/connections", { cursor });
      yield* page.items;
      cursor = page.nextCursor;
    } while (cursor !== null);
  }

  /** How far a flow is. */
  async flow(state: string): Promise<FlowStatus> {
    return this.#get<FlowStatus>("/connections/oauth/status", { state });
  }

  /**
   * Connects a provider in a popup. Call it from a click, without an `await` before it: browsers let a page open a window
   * only then.
   *
   * The popup ends on the gateway's own page, which tells this window as soon as the flow has ended. The message is only
   * a hint: what counts is the flow's status, asked with the key. A provider whose pages cut the tie between the two
   * windows costs the hint, so the status is asked every two seconds as well. For the same reason `popup.closed` says
   * nothing: a window whose tie is cut looks closed. Give up with `signal`.
   */
  async connect(provider: string, signal?: AbortSignal): Promise<Outcome> {
    const popup = window.open("about:blank", "_blank", "popup,width=720,height=820");
    if (popup === null) throw new Error("The browser did not let this page open a window.");
    try {
      const path = `/connections/${encodeURIComponent(provider)}/authorize`;
      const begun = await this.#get<BegunFlow>(path, { redirect_to: "inline" });
      popup.location.replace(begun.url);
      return await this.#outcome(begun, popup, signal);
    } catch (error) {
      popup.close();
      throw error;
    }
  }

  async #outcome({ url, state }: BegunFlow, popup: Window, signal?: AbortSignal): Promise<Outcome> {
    const origin = new URL(url).origin;
    for (;;) {
      const told = await this.#messageOrPause(popup, origin, signal);
      const status = await this.flow(state);
      const outcome = outcomeOf(status);
      if (outcome) return outcome;
      // The page says that it is over and the status does not: look again at once, not in a loop.
      if (told) await pause(200, signal);
    }
  }

  /** Waits for the completion page's message, or a while. Messages of anybody else are not ours. */
  async #messageOrPause(popup: Window, origin: string, signal?: AbortSignal): Promise<boolean> {
    const heard = new AbortController();
    const message = new Promise<true>((resolve) => {
      const listen = (event: MessageEvent<unknown>): void => {
        if (event.origin === origin && event.source === popup && isOurs(event.data)) resolve(true);
      };
      window.addEventListener("message", listen, { signal: heard.signal });
    });
    try {
      return await Promise.race([message, pause(POLL_EVERY_MS, signal).then(() => false)]);
    } finally {
      heard.abort();
    }
  }

  async #get<T>(path: string, query: Readonly<Record<string, string | null>> = {}): Promise<T> {
    const url = new URL(this.#base + path);
    for (const [name, value] of Object.entries(query)) {
      if (value !== null) url.searchParams.set(name, value);
    }
    // Cookies are nothing to the API: the key is all there is.
    const response = await fetch(url, { headers: this.#headers, credentials: "omit", cache: "no-store" });
    if (response.ok) return (await response.json()) as T;
    const problem: unknown = await response.json().catch(() => null);
    const member = (name: string): string | null => {
      const value = problem !== null && typeof problem === "object" ? (problem as Record<string, unknown>)[name] : null;
      return typeof value === "string" ? value : null;
    };
    const title = member("detail") ?? member("title") ?? `The gateway answered ${response.status}.`;
    throw new Refused(response.status, member("error") ?? "unknown", title, response.headers.get("X-Request-Id"));
  }
}

/** `null` while the flow goes on. */
function outcomeOf(flow: FlowStatus): Outcome | null {
  switch (flow.status) {
    case "completed":
      return { kind: "connected", connectionId: flow.connectionId ?? "", reactivated: flow.reactivated ?? false };
    case "failed":
      return { kind: "failed", error: flow.error ?? "unknown" };
    case "expired":
      return { kind: "expired" };
    default:
      return flow.setupAction === undefined ? null : { kind: "waiting" };
  }
}

function isOurs(data: unknown): boolean {
  return data !== null && typeof data === "object" && (data as { type?: unknown }).type === "signalbox:connected";
}

function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", gaveUp);
    function done(): void {
      signal?.removeEventListener("abort", gaveUp);
      resolve();
    }
    function gaveUp(): void {
      clearTimeout(timer);
      reject(signal?.reason);
    }
  });
}
