-- What needs somebody, which the console's overview asks for every few seconds: few rows among however many.
CREATE INDEX gw_installations_status ON gw_installations (status, id);
CREATE INDEX gw_destinations_disabled ON gw_destinations (id) WHERE disabled_reason IS NOT NULL;
