// Written by types.mjs from docs/openapi.json; do not edit.

/** A page of a list. */
export type Page_Provider = {
  items: Provider[];
  /** The `cursor` of the next page; `null` at the end. */
  nextCursor: string | null;
};

/** A page of a list. */
export type Page_Connection = {
  items: Connection[];
  /** The `cursor` of the next page; `null` at the end. */
  nextCursor: string | null;
};

/** Where a person's browser goes to connect. */
export type BegunFlow = {
  /** Ask for the flow's status with it. */
  state: string;
  /** Open it in the person's browser. */
  url: string;
};

/** How far a flow is. */
export type FlowStatus = {
  connectionId?: string;
  /** A code. */
  error?: string;
  provider?: string;
  /** Whether the connection was there before. */
  reactivated?: boolean;
  /** The provider's word for what the person did. */
  setupAction?: string;
  /** `pending`, `completed`, `failed`, or `expired` for a state that nobody knows (any more). */
  status: string;
};

/** A provider. */
export type Provider = {
  categories: EventCategory[];
  /** Whether it is configured. */
  enabled: boolean;
  events: EventSpec[];
  name: string;
  /** What its resources are called. */
  resourceLabel: string;
  slug: string;
};

/** An org's installation at a provider. */
export type Connection = {
  accountLogin: string | null;
  connectedBy: string;
  /** The id again, where a connection is adopted. */
  connectionId?: string;
  createdAt: Time;
  /** The provider's id of the installation. */
  externalId: string;
  hasToken: boolean;
  /** `ok`, or what is wrong. */
  health: ConnectionHealth;
  /** `in_…` */
  id: string;
  lastEventAt: Time | null;
  orgId: string;
  /** The provider's slug. */
  provider: string;
  /** The active ones. */
  resources: Resource[];
  status: ConnectionStatus;
  /** Words of docs/words.md, or what another system called it. */
  statusReason: string | null;
  tokenExpiresAt: Time | null;
  updatedAt: Time;
};

/** A category of events. */
export type EventCategory = {
  description: string;
  key: string;
  label: string;
};

/** An event a provider can send. */
export type EventSpec = {
  /** The broader key that includes it. */
  aliasOf?: string;
  category: string;
  /** Whether a new integration wants it. */
  default: boolean;
  description: string;
  key: string;
  label: string;
  weight: number;
};

/** RFC 3339, UTC. */
export type Time = string;

/** How a connection is doing. */
export type ConnectionHealth = "ok" | "degraded" | "silent" | "pending" | "needs_reauth" | "suspended" | "revoked";

/** A thing at the provider that emits events, linked to a connection. */
export type Resource = {
  /** `res_…` */
  id: string;
  providerResourceId: string;
  resourceName: string | null;
};

/** What state a connection is in. */
export type ConnectionStatus = "pending" | "active" | "needs_reauth" | "suspended" | "revoked";
